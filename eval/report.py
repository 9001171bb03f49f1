"""The report of a run: one HTML file that needs nothing else, and the same tables in Markdown.

Both are written from one list of blocks. Texts of items stand in the HTML only, escaped and behind a click.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from guard.labelled import Labelled
from guard.measure.metrics import POSITIVES
from guard.printable import printable

from . import plots
from .score import Json, columns

REFERENCE = {"precision": 0.994, "recall": 0.956}  # arXiv 2310.06825, section 5.2: acceptable is the positive class
WORST = 15  # errors shown of each sort
_TEXT = 2000  # characters of one text

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid #ccc;padding:.25rem .6rem;text-align:left;vertical-align:top}
th{background:#f3f3f3}.wide{overflow-x:auto}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.5rem;margin:.2rem 0}
code{overflow-wrap:anywhere}figure{display:inline-block;margin:0 1rem 0 0}summary{cursor:pointer}
h2{border-top:2px solid #444;padding-top:1rem;margin-top:2.5rem}
@media print{body{font-size:10pt;max-width:none;margin:0}table{font-size:7.5pt}th,td{padding:.15rem .3rem}
 .wide{overflow:visible}tr,figure,h2,h3{break-inside:avoid}h2,h3{break-after:avoid}h2{break-before:page}h2:first-of-type{break-before:auto}}
"""


@dataclass(frozen=True)
class Block:
    """One piece of the report: a heading, a paragraph, a table, a picture or a hidden text."""

    kind: str
    text: str = ""
    level: int = 2
    rows: tuple[tuple[str, ...], ...] = ()  # of a table, the header first


def blocks(
    scores: Json, frames: Mapping[str, pl.DataFrame], texts: Mapping[tuple[str, str], Labelled],
    attacks: Sequence[Block] = (), headline: Sequence[Block] = (),
) -> list[Block]:  # fmt: skip
    """The whole report. `frames`: predictions by file name; `texts`: items by (set, id), as far as they are at hand;
    `attacks`: the part about them, where they were measured; `headline`: what more is said beside the headline."""
    cells = scores["cells"]
    found = [
        Block("heading", "How far these verdicts can be trusted", 1),
        Block("text", "Every figure stands with its 95 % interval and the number of items n. Two views are given "
              "side by side, because precision and recall change their meaning with the positive class: where it is "
            "acceptable, precision is the share of accepted items that are acceptable; where it is harmful, the share "
            "of stopped items that are harmful. Decisions to review and errors count as stopped. An undefined figure "
            "is a dash with its reason."),
        Block("heading", "In short"),
        _headline(cells),
        *headline,
        Block("text", "The reference figures are those that Mistral 7B's authors report for self-reflection on a "
              "balanced set of their own (arXiv 2310.06825, section 5.2). Their set is not public and ours is another "
              "one: the row says what is reached for, it is no comparison on equal terms."),
        _overview(cells),
    ]  # fmt: skip
    for cell in cells:
        found += _section(cell, [frames[name] for name in cell["file"].split(" + ")], texts)
    found += attacks
    left_out = [(name, reason) for name, reasons in scores["left_out"].items() for reason in reasons]
    if left_out:
        found += [Block("heading", "Rows that are in no figure"), _table(("set", "row and reason"), left_out)]
    return [
        *found,
        Block("heading", "To make this again"),
        Block("code", scores["command"]),
        Block("text", f"guard {scores['guard']}; {scores['machine']}. The scoring step reads the saved predictions "
              "alone: `python -m eval score FOLDER` writes the same figures without a model."),
        _table(
            ("set", "policy", "model", "hash of the set", "hash of the policy", "hashes of the prompts"),
            [
                (c["set"], f"{c['policy']} v{c['policy_version']}", c["model"], c["set_hash"], c["policy_hash"],
                 " ".join(c["prompt_hashes"]))
                for c in cells if " + " not in c["set"]
            ],
        ),
    ]  # fmt: skip


def estimate(found: Json, percent: bool = True) -> str:
    """A figure as it is read: 87.3 % (85.0–89.4), n = 1234."""
    if found["value"] is None:
        return f"– ({found['reason']})"
    scale, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    value, low, high = (f"{scale * found[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value}{unit} ({low}–{high}), n = {found['n']}"


def _headline(cells: Sequence[Json]) -> Block:
    main = [cell for cell in cells if " + " in cell["set"]] or list(cells)
    rows = [
        (
            f"{cell['model']}, {cell['policy']}", f"{cell['set']}: {cell['counts']['acceptable']} acceptable, "
            f"{cell['counts']['harmful']} harmful",
            *(estimate(cell["views"][positive][name]) for positive in POSITIVES for name in ("precision", "recall")),
        )
        for cell in main
    ]  # fmt: skip
    reference = (
        "Mistral 7B, self-reflection, as its authors report", "their own, balanced",
        f"{100 * REFERENCE['precision']:.1f} %", f"{100 * REFERENCE['recall']:.1f} %", "not reported", "not reported",
    )  # fmt: skip
    head = ("model and policy", "set", *(f"{name}, {positive} positive" for positive in POSITIVES
            for name in ("precision", "recall")))  # fmt: skip
    return _table(head, [*rows, reference])


def _overview(cells: Sequence[Json]) -> Block:
    rows = []
    for cell in cells:
        n = cell["counts"]
        rows.append(
            (
                cell["set"], cell["policy"], f"{n['acceptable']} / {n['harmful']}",
                f"{n['unscored']} unscored, {cell['out_of_scope']} out of scope, {cell['skipped']} unreadable",
                estimate(cell["views"]["harmful"]["recall"]), estimate(cell["false_positive_rate"]),
                estimate(cell["auroc"], percent=False),
            )
        )  # fmt: skip
    return _table(
        ("set", "policy", "acceptable / harmful", "left out", "harmful stopped", "acceptable stopped", "AUROC"), rows
    )


def _section(cell: Json, frames: Sequence[pl.DataFrame], texts: Mapping[tuple[str, str], Labelled]) -> list[Block]:
    frame = pl.concat(frames)
    judged = columns(frame)
    n = cell["counts"]
    money = cell["cost"]
    per_1000 = "" if money["cost_per_1000"] is None else f", {money['cost_per_1000']:.4f} at the price given"
    takes = money["reason"] if money["seconds_per_1000"] is None else f"{money['seconds_per_1000']:.2f} s{per_1000}"
    figures = [
        *((f"{name}, {p} positive", estimate(cell["views"][p][name])) for p in POSITIVES
          for name in ("precision", "recall", "f1", "auprc")),
        ("AUROC", estimate(cell["auroc"], percent=False)),
        *((f"recall of harmful at {100 * float(x):g} % false positives", estimate(found))
          for x, found in cell["recall_at_false_positives"].items()),
        ("expected calibration error", estimate(cell["expected_calibration_error"], percent=False)),
        *((f"precision, {p} positive, where {100 * row['prevalence_of_harmful']:g} % are harmful", estimate(row[p]))
          for row in cell["precision_at_prevalence"] for p in POSITIVES),
        ("1,000 items take", takes),
    ]  # fmt: skip
    slices = [
        (row["slice"], f"{row['counts']['acceptable']} / {row['counts']['harmful']}",
         estimate(row["views"]["harmful"]["recall"]), estimate(row["false_positive_rate"]),
         estimate(row["auroc"], percent=False), str(row["counts"]["unscored"]))
        for row in cell["slices"]
    ]  # fmt: skip
    categories = [
        (row["category"], estimate(row["stopped"]), estimate(row["named"]), estimate(row["named_rightly"]),
         estimate(row["auroc_against_acceptable"], percent=False))
        for row in cell["categories"]
    ]  # fmt: skip
    sweep = [
        (f"{row['threshold']:.2f}", *(estimate(row[p][name]) for p in POSITIVES for name in ("precision", "recall")))
        for row in cell["sweep"]
    ]
    decisions = ", ".join(f"{name} {count}" for name, count in cell["decisions"].items())
    said = sorted({label for row in cell["confusion"].values() for label in row})
    confused = [(label, *(str(row.get(name, 0)) for name in said)) for label, row in sorted(cell["confusion"].items())]
    return [
        Block("heading", f"{cell['set']} under {cell['policy']}, {cell['model']}"),
        Block("text", f"{n['acceptable']} acceptable items: {n['right']} accepted, {n['false_alarms']} stopped. "
              f"{n['harmful']} harmful items: {n['caught']} stopped, {n['missed']} accepted. "
              f"Unscored: {n['unscored']}. Decisions: {decisions}."),
        _table(("figure", "value (95 % interval)"), figures),
        Block("picture", plots.precision_recall(judged)),
        Block("picture", plots.reliability(cell["reliability"])),
        Block("heading", "Categories", 3),
        _table(("category", "stopped, of its items", "named, of its items", "its items, of those named",
                "AUROC against acceptable items"), categories),
        Block("heading", "Gold label (row) and the label given (column)", 3),
        _table(("", *said), confused),
        Block("heading", "Slices", 3),
        _table(("slice", "acceptable / harmful", "harmful stopped", "acceptable stopped", "AUROC", "unscored"), slices),
        Block("heading", "Thresholds on the overall score", 3),
        _table(("threshold", *(f"{name}, {p} positive" for p in POSITIVES for name in ("precision", "recall"))), sweep),
        *_worst(frame, texts),
    ]  # fmt: skip


def _worst(frame: pl.DataFrame, texts: Mapping[tuple[str, str], Labelled]) -> Iterable[Block]:
    """The surest mistakes, their texts behind a click; and what has no score at all."""
    allowed = pl.col("decision") == "allow"
    for title, wrong, descending in (
        ("Harmful, yet accepted: the lowest scores", pl.col("harmful") & allowed, False),
        ("Acceptable, yet stopped: the highest scores", ~pl.col("harmful") & ~allowed, True),
    ):
        rows = frame.filter(wrong).sort("score", "set", "id", descending=[descending, False, False], nulls_last=True)
        yield Block("heading", f"{title} ({rows.height} in all)", 3)
        for row in rows.head(WORST).iter_rows(named=True):
            one = texts.get((row["set"], row["id"]))
            score = "no score" if row["score"] is None else f"score {row['score']:.3f}"
            text = "(the set's file is not at hand)" if one is None else _shown(one)
            yield Block("hidden", f"{row['id']}: {row['gold_label']}, {row['decision']}, {score}\n{text}")


def _shown(one: Labelled) -> str:
    item = one.item
    context = [("title", item.title), ("in reply to", item.parent), ("prompt", item.prompt), ("text", item.text)]
    return "\n".join(f"{name}: {printable(value, _TEXT)}" for name, value in context if value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Block:
    return Block("table", rows=(tuple(head), *map(tuple, rows)))


def as_html(content: Iterable[Block]) -> str:
    """The report as a page without any outside part."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>guard: evaluation</title>'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'unsafe-inline'\"><style>{_STYLE}</style></head><body>\n"
        + "\n".join(map(_html, content)) + "\n</body></html>\n"
    )  # fmt: skip


def _html(block: Block) -> str:
    if block.kind == "heading":
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if block.kind == "picture":
        return f"<figure>{block.text}</figure>"
    if block.kind == "code":
        return f"<pre>{html.escape(block.text)}</pre>"
    if block.kind == "hidden":
        title, _, text = block.text.partition("\n")
        return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
    if block.kind == "table":
        head, *rows = block.rows
        lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
        lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'
    return f"<p>{html.escape(block.text)}</p>"


def as_markdown(content: Iterable[Block]) -> str:
    """The report without pictures and without texts of items."""
    parts = []
    for block in content:
        if block.kind == "heading":
            parts.append(f"{'#' * block.level} {block.text}")
        elif block.kind == "code":
            parts.append(f"```text\n{block.text}\n```")
        elif block.kind == "table":
            head, *rows = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in block.rows)
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)))
        elif block.kind == "hidden":
            parts.append(f"- {block.text.partition(chr(10))[0]}")
        elif block.kind == "text":
            parts.append(block.text)
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def readme_block(scores: Json) -> str:
    """What the README says of the pooled set under the reference policy."""
    cells = [cell for cell in scores["cells"] if " + " in cell["set"] or cell["set"].endswith("-175")]
    cells = [cell for cell in cells if cell["policy"] == "self-reflection"]
    rows: list[Any] = [
        (cell["set"], f"{cell['counts']['acceptable']} / {cell['counts']['harmful']}",
         *(estimate(cell["views"]["acceptable"][name]) for name in ("precision", "recall")),
         estimate(cell["views"]["harmful"]["recall"]), estimate(cell["auroc"], percent=False))
        for cell in cells
    ]  # fmt: skip
    head = ("set", "acceptable / harmful", "precision, *acceptable* positive", "recall, *acceptable* positive",
            "harmful stopped", "AUROC")  # fmt: skip
    return as_markdown([_table(head, rows)])
