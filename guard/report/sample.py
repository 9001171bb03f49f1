"""A drawn sample for people to review, and what their labels say about all rows.

Drawing: rows with a verdict, in strata by decision; the same number from each as far as it has so many, at random with
a fixed seed. A row's weight is the number of rows that it stands for.

Estimating: a stratum's share is that of its labelled rows, with Wilson's interval; n is raised by the correction for a
finite stratum, so that a stratum that was labelled whole has no uncertainty. Strata with the shares W of the rows give
p = sum W p_h, and the limits p -+ sqrt(sum W^2 (p_h - limit_h)^2): the method of variance estimates recovery (Zou and
Donner 2008, "Construction of confidence limits about effect measures: a general approach"). It is Wilson's interval
where there is one stratum, and does not collapse where all rows of a stratum have one label. How often it holds the
truth is simulated in `tests/report/test_sample.py`.

The one rule: a sheet must not be dangerous to open. Cells that a spreadsheet would take for a formula get a `'` before
them, and so do those that begin with `'`; `bare` takes it off again.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from guard.errors import InvalidFile, InvalidRequest
from guard.labelled import ACCEPTABLE, UNACCEPTABLE, plain_label
from guard.measure.intervals import Estimate, undefined, wilson
from guard.report.files import write
from guard.report.source import JUDGED, STOPPED, Rows
from guard.scan.readers import open_reader
from guard.verdict import Decision

SEED = 20231010
COLUMNS = ("id", "text", "decision", "categories", "score", "stratum", "weight", "label")
# in every position of a cell's first character; tab and line breaks are skipped by some programs, and wide forms count
_DANGEROUS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_MARK = "'"
_WHAT = "Name the file that --sample wrote, once it has labels."


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula.

    >>> harmless("=1+1"), harmless("'tis"), harmless("fine = fine")
    ("'=1+1", "''tis", 'fine = fine')
    """
    return _MARK + cell if cell.startswith((*_DANGEROUS, _MARK)) else cell


def bare(cell: str) -> str:
    """What `harmless` was given.

    >>> bare("'=1+1"), bare("''tis"), bare("-1")
    ('=1+1', "'tis", '-1')
    """
    return cell.removeprefix(_MARK)


def draw(rows: Rows, wanted: int, path: Path) -> int:
    """Write a sample of `wanted` rows, or of all if there are no more, to `path`; returns how many.

    Raises `InvalidRequest` where the rows have no texts.
    """
    if "text" in rows.missing:
        raise InvalidRequest("The scan's output has no texts to review.", hint="Scan again without --no-text.")
    decisions = rows.lazy().select("number", "decision").filter(pl.col("decision").is_in(JUDGED)).collect()
    strata = {
        name: decisions.filter(pl.col("decision") == name)["number"].to_numpy()
        for name in JUDGED if name in decisions["decision"]
    }  # fmt: skip
    shares = allotted({name: len(numbers) for name, numbers in strata.items()}, wanted)
    random = np.random.default_rng(SEED)
    drawn = np.concatenate([
        random.choice(numbers, shares[name], replace=False) for name, numbers in strata.items()
    ] or [np.empty(0, np.uint32)])  # fmt: skip
    # in no order, so that the first half is a sample, too, for whoever stops there
    chosen = pl.Series(random.permutation(drawn)).cast(pl.UInt32)
    found = rows.lazy().filter(pl.col("number").is_in(chosen.implode())).collect(engine="streaming")
    found = pl.DataFrame({"number": chosen}).join(found, on="number", how="left", maintain_order="left")
    text = io.StringIO()
    sheet = csv.writer(text)
    sheet.writerow(COLUMNS)
    for row in found.iter_rows(named=True):
        name = row["decision"]
        cells = (row["id"] or "", row["text"] or "", name, ";".join(row["categories"]))
        score = "" if row["score"] is None else row["score"]
        sheet.writerow([*map(harmless, cells), score, name, f"{len(strata[name]) / shares[name]:.6g}", ""])
    write(path, text.getvalue(), "utf-8-sig")  # the mark tells spreadsheets the encoding
    return found.height


def allotted(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many rows each stratum gives: the same number, and what a small one lacks goes to the others.

    >>> allotted({"allow": 1000, "flag": 20, "block": 3}, 60)
    {'allow': 37, 'flag': 20, 'block': 3}
    """
    given = dict.fromkeys(sizes, 0)
    left = wanted
    smallest_first = sorted(sizes, key=lambda name: sizes[name])
    for i, name in enumerate(smallest_first):
        given[name] = min(sizes[name], left // (len(sizes) - i))
        left -= given[name]
    return given


@dataclass(frozen=True)
class Stratum:
    """The rows of one decision: how many there are, were drawn, were labelled, and were labelled harmful."""

    name: str
    rows: int
    drawn: int
    labelled: int
    harmful: int


@dataclass(frozen=True)
class Reviewed:
    """What the labels say: of the rows stopped, the share that is harmful; of those allowed, too."""

    strata: tuple[Stratum, ...]
    precision: Estimate  # all that was stopped: flagged, for review, blocked
    by_decision: dict[str, Estimate]
    missed: Estimate  # harmful, of the rows allowed
    unlabelled: int


def review(rows: Rows, path: Path) -> Reviewed:
    """Read a reviewed sample of these rows. Raises `InvalidFile`."""
    reader = open_reader(path, "text", "id", ("stratum", "label"))
    reader.check()
    if absent := {"stratum", "label"} - set(reader.columns):
        raise InvalidFile(f"{path}: there is no column {min(absent)!r}.", hint=_WHAT)
    drawn: Counter[str] = Counter()
    labels: dict[str, list[bool]] = {name: [] for name in JUDGED}
    places: list[tuple[str, str]] = []
    for row in reader:
        stratum = str(row.more.get("stratum") or "")
        if stratum not in JUDGED:
            raise InvalidFile(f"{path}: row {row.number} has a stratum that is no decision.", hint=_WHAT)
        drawn[stratum] += 1
        places.append((bare(row.id), stratum))
        if str(row.more.get("label") or "").strip():
            labels[stratum].append(_harmful(row.more["label"], rows, path, row.number))
    _must_be_of(rows, places, path)
    sizes = dict(
        rows.lazy().group_by("decision").agg(n=pl.len()).collect(engine="streaming").iter_rows()
    )  # of those now in OUT: a weight may have been rounded, or sorted away
    strata = tuple(
        Stratum(name, sizes[name], drawn[name], len(labels[name]), sum(labels[name]))
        for name in JUDGED if name in sizes
    )  # fmt: skip
    stopped = [one for one in strata if one.name in STOPPED]
    return Reviewed(
        strata, stratified(stopped), {one.name: stratified([one]) for one in stopped},
        stratified([one for one in strata if one.name == Decision.ALLOW.value]),
        unlabelled=sum(one.drawn - one.labelled for one in strata),
    )  # fmt: skip


def _harmful(label: object, rows: Rows, path: Path, number: int) -> bool:
    plain = plain_label(label)
    if plain in (ACCEPTABLE, UNACCEPTABLE):
        return plain == UNACCEPTABLE
    if plain in rows.categories:
        return True
    raise InvalidFile(
        f"{path}: row {number} has a label that means nothing here.",
        hint=f"{ACCEPTABLE}, {UNACCEPTABLE}, a category of the scan, or nothing.",
    )


def _must_be_of(rows: Rows, places: list[tuple[str, str]], path: Path) -> None:
    if not places:
        raise InvalidFile(f"{path}: has no rows.", hint=_WHAT)
    ids = pl.Series([id_ for id_, _ in places]).implode()
    found = rows.lazy().select(pl.col("id").fill_null(""), "decision").filter(pl.col("id").is_in(ids)).collect()
    strange = set(places) - set(found.iter_rows())
    if strange or len(places) > rows.total:
        raise InvalidFile(
            f"{path}: {len(strange)} rows are not of this scan, or were decided otherwise.",
            hint="Name the sample drawn from this output. Some spreadsheets change long numbers: keep the ids as text.",
        )


def stratified(strata: list[Stratum]) -> Estimate:
    """The share of harmful rows over strata, with the 95 % interval that the module describes.

    Undefined unless each stratum that has rows has labels.

    >>> one = stratified([Stratum("flag", 10**9, 10, 10, 8)])
    >>> round(one.value, 4), round(one.low, 4), round(one.high, 4)
    (0.8, 0.4902, 0.9433)
    >>> stratified([Stratum("flag", 10, 10, 10, 8)]).high
    0.8
    """
    strata = [one for one in strata if one.rows]
    n, total = sum(one.labelled for one in strata), sum(one.rows for one in strata)
    if not strata:
        return undefined("no such rows")
    if any(not one.labelled for one in strata):
        return undefined("a decision has no labelled row", n)
    value = below = above = 0.0
    for one in strata:
        weight, p = one.rows / total, one.harmful / one.labelled
        low, high = p, p
        if one.labelled < one.rows:
            effective = one.labelled * (one.rows - 1) / (one.rows - one.labelled)
            low, high = wilson(p * effective, effective)
        value += weight * p
        below += (weight * (p - low)) ** 2
        above += (weight * (high - p)) ** 2
    return Estimate(value, max(0.0, value - math.sqrt(below)), min(1.0, value + math.sqrt(above)), n)
