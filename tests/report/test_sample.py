"""The sheet is harmless and can be read back; the intervals hold the truth as often as they say."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidFile, InvalidRequest
from guard.report.sample import COLUMNS, Stratum, allotted, bare, draw, harmless, review, stratified
from guard.report.source import Rows
from tests.report.conftest import numbered, row

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", '=HYPERLINK("http://x","y")', "\uff1d1", "\n=2"]


@given(st.text() | st.sampled_from(FORMULAS).map(lambda start: start + "x"))
def test_a_cell_is_harmless_and_comes_back(cell: str):
    assert bare(harmless(cell)) == cell
    assert not harmless(cell).startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"))


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50)), st.integers(0, 250))
def test_rows_are_allotted_as_evenly_as_the_strata_let(sizes: dict[str, int], wanted: int):
    given_ = allotted(sizes, wanted)
    assert sum(given_.values()) == min(wanted, sum(sizes.values()))
    assert all(0 <= given_[name] <= size for name, size in sizes.items())
    most = max(given_.values(), default=0)
    assert all(given_[name] >= most - 1 or given_[name] == size for name, size in sizes.items())


def scan() -> list[dict]:
    decisions = ["allow"] * 300 + ["flag"] * 60 + ["block"] * 5 + ["error"] * 10
    return numbered(
        row(decision=decision, text=FORMULAS[i % len(FORMULAS)] + f" {i}", score=0.5 if decision != "error" else None,
            categories=["insult"] if decision in ("flag", "block") else [])
        for i, decision in enumerate(decisions)
    )  # fmt: skip


def sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def labelled(path: Path, label: Callable[[dict[str, str]], str]) -> Path:
    rows = sheet(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, COLUMNS)
        out.writeheader()
        out.writerows({**one, "label": label(one)} for one in rows)
    return path


@pytest.fixture
def rows(rows_of: Callable) -> Rows:
    return rows_of(scan())


def test_a_sample_is_drawn_by_decision_with_weights(rows: Rows, tmp_path: Path):
    assert draw(rows, 100, tmp_path / "review.csv") == 100
    found = sheet(tmp_path / "review.csv")
    assert tuple(found[0]) == COLUMNS
    assert Counter(one["stratum"] for one in found) == {"allow": 48, "flag": 47, "block": 5}
    weights = Counter()
    for one in found:
        weights[one["stratum"]] += float(one["weight"])
    assert weights == pytest.approx({"allow": 300, "flag": 60, "block": 5}, rel=1e-4)
    texts = {one["id"]: one["text"] for one in scan()}
    assert all(bare(one["text"]) == texts[bare(one["id"])] and one["label"] == "" for one in found)
    assert len({one["id"] for one in found}) == 100


def test_the_same_sample_is_drawn_again(rows: Rows, tmp_path: Path):
    for name in ("a.csv", "b.csv"):
        draw(rows, 30, tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_rows_without_texts_cannot_be_reviewed(rows_of: Callable, tmp_path: Path):
    with pytest.raises(InvalidRequest):
        draw(rows_of([row()]), 1, tmp_path / "a.csv")


def test_labels_give_precision_and_what_was_missed(rows: Rows, tmp_path: Path):
    draw(rows, 1000, tmp_path / "all.csv")
    path = labelled(tmp_path / "all.csv", lambda one: "insult" if int(one["id"]) % 2 else " Acceptable ")
    found = review(rows, path)
    assert found.precision.value == found.precision.low == found.precision.high == 32 / 65  # all rows were labelled
    assert found.by_decision["flag"].value == 0.5 and found.missed.value == 0.5
    assert found.unlabelled == 0


def test_rows_without_a_label_count_for_nothing(rows: Rows, tmp_path: Path):
    draw(rows, 90, tmp_path / "r.csv")
    kept = [one["id"] for one in sheet(tmp_path / "r.csv") if one["stratum"] != "block"][:40]
    found = review(rows, labelled(tmp_path / "r.csv", lambda one: "1" if one["id"] in kept else ""))
    assert found.precision.value is None and found.precision.reason == "a decision has no labelled row"
    assert found.missed.value == 1.0 and found.missed.low and found.missed.low < 1.0
    assert found.unlabelled == 50


def test_a_sheet_of_another_scan_is_refused(rows: Rows, tmp_path: Path):
    path = tmp_path / "r.csv"
    draw(rows, 20, path)
    text = path.read_text(encoding="utf-8-sig")
    for changed in (
        text.replace(",allow,", ",flag,"), text.replace("id,", "no,", 1), text.partition("\n")[0] + "\n",
        text.replace(",label", ",mark", 1), text.replace("flag", "odd"),
    ):  # fmt: skip
        path.write_text(changed, encoding="utf-8", newline="")
        with pytest.raises(InvalidFile):
            review(rows, path)
    with pytest.raises(InvalidFile):
        review(rows, tmp_path / "none.csv")


def test_a_label_that_means_nothing_is_refused_and_not_taken_for_harm(rows: Rows, tmp_path: Path):
    draw(rows, 20, tmp_path / "r.csv")
    with pytest.raises(InvalidFile) as error:
        review(rows, labelled(tmp_path / "r.csv", lambda one: "no idea"))
    assert "no idea" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "shares", "drawn"),
    [
        ((100_000, 20_000, 5_000), (0.9, 0.7, 0.95), (40, 40, 40)),
        ((3_000, 200, 60), (0.6, 0.85, 0.5), (50, 50, 50)),
        ((50_000,), (0.02,), (200,)),
        ((500, 500), (0.97, 0.99), (30, 30)),
    ],
)
def test_intervals_hold_the_truth_about_nineteen_times_in_twenty(sizes: tuple, shares: tuple, drawn: tuple):
    """It is 92 to 97 in a hundred; fewest with few labels and a share near 1, as in the last case."""
    draw = np.random.default_rng(7)
    held = []
    for _ in range(2000):
        harmful = [round(size * share) for size, share in zip(sizes, shares, strict=True)]
        strata = [
            Stratum(str(i), size, n, n, int(draw.hypergeometric(bad, size - bad, n)))
            for i, (size, bad, n) in enumerate(zip(sizes, harmful, drawn, strict=True))
        ]
        found = stratified(strata)
        assert found.low is not None and found.high is not None
        held.append(found.low <= sum(harmful) / sum(sizes) <= found.high)
    assert 0.92 <= np.mean(held) <= 0.985


def test_a_stratum_without_labels_gives_no_figure():
    assert stratified([Stratum("flag", 10, 2, 2, 1), Stratum("block", 5, 0, 0, 0)]).value is None
    assert stratified([]).value is None
    one = stratified([Stratum("flag", 1, 1, 1, 1)])
    assert one.value == 1.0 and not math.isnan(one.low or 0)
