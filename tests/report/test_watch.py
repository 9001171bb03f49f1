"""Mentions are whole words in any case; their counts are those of counting by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guard.errors import InvalidRequest
from guard.report.found import found
from guard.report.watch import terms, watched
from tests.report.conftest import numbered, row

TEXTS = {
    "Acme, I say": True, "ACME's": True, "ａｃｍｅ": True, "acme\u00a0 cloud!": True, "acmeist": False, "macme": False,
    "ac me": False, "so (acme)": True, "": False, "acme_1": False,
}  # fmt: skip


def test_a_name_is_found_as_a_whole_word_in_any_case_and_width(rows_of: Callable):
    rows = rows_of(numbered(row(text=text) for text in TEXTS))
    cloud, acme = watched(rows, found(rows), ["Acme Cloud", "acme"])
    assert (acme.rows, cloud.rows) == (sum(TEXTS.values()), 1)


def test_rows_with_the_name_are_set_beside_all_others(rows_of: Callable):
    days = [f"2024-0{month}-{day:02}" for month in (1, 2) for day in range(1, 29)]
    data = []
    for i, day in enumerate(days):
        for n in range(20):
            bad = n < (2 if i < 28 else 8)  # from February on, harm comes with the name
            data.append(row(text="acme it is", time=day, decision="block" if bad else "allow",
                            categories=["insult"] if bad else [], score=0.9 if bad else 0.1))  # fmt: skip
            data.append(row(text="something else", time=day, decision="flag" if n == 0 else "allow",
                            categories=["spam"] if n == 0 else []))  # fmt: skip
    data.append(row(text="acme", decision="error"))
    rows = rows_of(numbered(data))
    (one,) = watched(rows, found(rows), ["acme"])
    assert (one.rows, one.mentioned.n, one.harmful.n, one.others.n) == (1121, 2241, 1120, 1120)
    assert (one.harmful.value, one.others.value) == (280 / 1120, 56 / 1120)
    assert [(name, there.value, elsewhere.value) for name, there, elsewhere in one.categories] == [("insult", 0.25, 0)]
    assert one.over
    assert sum(one.over.mine.stopped) == 280 and sum(one.over.others.stopped) == 56
    starts = one.over.buckets.starts
    assert [starts[change.at].isoformat()[:10] for change in one.over.harm_changes] == ["2024-02-01"]
    assert one.over.mention_changes == ()
    assert len(one.examples) == 8 and {example.decision for example in one.examples} == {"block"}


def test_a_name_that_nobody_mentions_has_no_share(rows_of: Callable):
    rows = rows_of([row(text="nothing")])
    (one,) = watched(rows, found(rows), ["acme"])
    assert (one.rows, one.harmful.value, one.categories, one.examples) == (0, None, (), ())


@pytest.mark.parametrize("given", [[" , "], ["x" * 101], [",".join(f"a{i}" for i in range(21))]])
def test_names_that_cannot_be_watched_are_refused(given: list[str]):
    with pytest.raises(InvalidRequest):
        terms(given)


def test_nothing_is_watched_unless_asked():
    assert terms([]) == ()
