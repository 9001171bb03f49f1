"""What is counted is what counting by hand gives."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from guard.report.found import BINS, TOP, WORST, found
from guard.report.found import NAMES as MOST_NAMES
from tests.report.conftest import numbered, row

NAMES = ["insult", "spam", "threat"]


def scan(count: int, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        decision = draw.choice(["allow"] * 6 + ["flag", "review", "block", "error"])
        stopped = decision in ("flag", "review", "block")
        rows.append(row(
            decision=decision, score=None if decision == "error" else round(draw.random(), 3),
            categories=draw.sample(NAMES, draw.randint(1, 2)) if stopped else [], board=draw.choice(["a", "b", None]),
            author=draw.choice(["x"] * 5 + [f"u{i}" for i in range(40)]), truncated=draw.random() < 0.1,
            unsupported_language=draw.random() < 0.2, time=f"2024-0{draw.randint(1, 6)}-{draw.randint(1, 28):02}",
            text=f"text {draw.random()}",
        ))  # fmt: skip
    return numbered(rows)


def test_counts_are_those_of_counting_by_hand(rows_of: Callable):
    rows = scan(1500)
    counts = found(rows_of(rows))
    judged = [one for one in rows if one["decision"] != "error"]
    stopped = [one for one in judged if one["decision"] != "allow"]
    assert (counts.rows, counts.judged, counts.stopped) == (1500, len(judged), len(stopped))
    assert counts.decisions == Counter(one["decision"] for one in rows)
    assert counts.categories == Counter(name for one in stopped for name in one["categories"])
    assert counts.errors == {"invalid_item": 1500 - len(judged)}
    assert counts.truncated == sum(one["truncated"] for one in rows)
    assert counts.unsupported_language == sum(one["unsupported_language"] for one in rows)
    bins = Counter((one in stopped, min(BINS - 1, int(one["score"] * BINS))) for one in judged)
    assert counts.histogram == {
        name: tuple(bins[flag, i] for i in range(BINS)) for name, flag in (("allow", False), ("stopped", True))
    }
    for place, name in ((counts.boards, "board"), (counts.authors, "author")):
        by = Counter(one[name] for one in stopped if one[name])
        top = sorted(by.items(), key=lambda item: (-item[1], item[0]))[:TOP]
        assert [(one.name, one.stopped) for one in place.top] == top
        assert place.different == len({one[name] for one in rows if one[name]})
        assert place.unknown == sum(one[name] is None for one in rows)
        for one in place.top:
            n = sum(other[name] == one.name for other in judged)
            assert one.judged == n and one.share.value == (one.stopped / n if n >= 30 else None)
    assert [one.id for one in counts.worst] == [
        one["id"] for one in sorted(stopped, key=lambda one: (-one["score"], int(one["id"])))[:WORST]
    ]
    assert counts.over and sum(counts.over.counts.rows) == 1500 and sum(counts.over.counts.stopped) == len(stopped)
    assert {name: sum(n) for name, n in counts.over.counts.categories.items()} == counts.categories


def test_a_row_that_names_a_category_twice_counts_once(rows_of: Callable):
    assert found(rows_of([row(decision="flag", categories=["spam", "spam"])])).categories == {"spam": 1}


def test_an_unknown_decision_is_no_verdict(rows_of: Callable):
    counts = found(rows_of([row(), row(decision="fine"), row(decision=None)]))
    assert (counts.rows, counts.judged, counts.stopped) == (3, 1, 0)
    assert counts.decisions == {"(none)": 1, "allow": 1, "fine": 1}


def test_a_score_that_is_no_probability_is_none(rows_of: Callable):
    counts = found(rows_of([row(score=5.0), row(score=-1.0), row(score=1.0), row(score=0.0)]))
    assert sum(counts.histogram["allow"]) == 2


def test_no_rows_are_counted_as_none(rows_of: Callable):
    counts = found(rows_of([]))
    assert (counts.rows, counts.judged, counts.over, counts.worst) == (0, 0, None, ())


def test_a_file_that_names_a_thousand_categories_gives_the_commonest_hundred(rows_of: Callable):
    rows = numbered(row(decision="flag", categories=[f"c{i}", "spam"], time="2024-01-01") for i in range(1000))
    counts = found(rows_of(rows))
    assert len(counts.categories) == MOST_NAMES and counts.categories["spam"] == 1000
    assert counts.over and len(counts.over.counts.categories) == MOST_NAMES
