"""Brand monitoring: the rows that mention a name, beside all others.

A name is found as a policy's deny terms are: as whole words, whatever their case, width and white space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from guard.errors import InvalidRequest
from guard.measure.intervals import Estimate
from guard.policy import Rule, folded
from guard.report.buckets import Buckets
from guard.report.changes import Change, changes
from guard.report.found import Counts, Found, Worst, counted, each_category, over_time, worst_of
from guard.report.rates import share
from guard.report.source import Rows

EXAMPLES = 8
MOST = 20


@dataclass(frozen=True)
class WatchedOver:
    """Over time: the rows with the name, all others, and where the former changed."""

    buckets: Buckets
    mine: Counts
    others: Counts
    harm_changes: tuple[Change, ...]  # of the share that is harmful, among the rows with the name
    mention_changes: tuple[Change, ...]  # of the share of all rows that have the name


@dataclass(frozen=True)
class Watched:
    """What is said of one name."""

    term: str
    rows: int
    mentioned: Estimate  # share of all rows
    harmful: Estimate  # share stopped, of the judged rows with the name
    others: Estimate  # the same, of all other rows
    categories: tuple[tuple[str, Estimate, Estimate], ...]  # each with its share there, and among all others
    over: WatchedOver | None
    examples: tuple[Worst, ...]


def terms(given: Sequence[str]) -> tuple[str, ...]:
    """The names of `--watch`: each may hold several, with commas. Raises `InvalidRequest`.

    >>> terms(["acme, Acme  Cloud", "ACME"])
    ('acme', 'Acme  Cloud')
    """
    found: dict[str, str] = {}
    for term in (part.strip() for one in given for part in one.split(",")):
        if folded(term):
            found.setdefault(folded(term), term)
    if given and not found:
        raise InvalidRequest("--watch names nothing.", hint='Such as --watch "acme,acme cloud".')
    if len(found) > MOST:
        raise InvalidRequest(f"--watch names more than {MOST}.", hint="Make several reports.")
    if any(len(term) > 100 for term in found):
        raise InvalidRequest("A name of --watch is longer than 100 characters.", hint="Separate names with commas.")
    return tuple(found.values())


def watched(rows: Rows, all_found: Found, names: Sequence[str]) -> list[Watched]:
    """Each name's rows, counted."""
    return [_watched(rows, all_found, name, numbers) for name, numbers in _mentions(rows, names).items()]


def _mentions(rows: Rows, names: Sequence[str]) -> dict[str, pl.Series]:
    """The numbers of the rows with each name."""
    if not names:
        return {}
    rules = {name: Rule(term=name, reason="watched") for name in names}
    hits: dict[str, list[int]] = {name: [] for name in names}
    for batch in rows.batches("number", "text"):
        for number, text in batch.drop_nulls().iter_rows():
            as_folded = folded(text)
            for name, rule in rules.items():
                if rule.found_in(text, as_folded):
                    hits[name].append(number)
    return {name: pl.Series("number", found, dtype=pl.UInt32) for name, found in hits.items()}


def _watched(rows: Rows, all_found: Found, name: str, numbers: pl.Series) -> Watched:
    mentions = rows.lazy().join(pl.LazyFrame({"number": numbers}), on="number", how="semi")
    judged, stopped = (
        int(value or 0)
        for value in mentions.select(pl.col("judged").sum(), pl.col("stopped").sum()).collect(engine="streaming").row(0)
    )
    named = counted(mentions.filter("stopped").select(each_category()).drop_nulls())
    categories = {name: n for name, n in named.items() if name in all_found.categories}
    others = all_found.judged - judged
    return Watched(
        term=name, rows=len(numbers), mentioned=share(len(numbers), rows.total), harmful=share(stopped, judged),
        others=share(all_found.stopped - stopped, others),
        categories=tuple(
            (category, share(n, judged), share(all_found.categories[category] - n, others))
            for category, n in categories.items()
        ),
        over=_over(mentions, all_found, categories), examples=worst_of(mentions.filter("stopped"), EXAMPLES),
    )  # fmt: skip


def _over(mentions: pl.LazyFrame, all_found: Found, categories: Iterable[str]) -> WatchedOver | None:
    whole = all_found.over
    if whole is None:
        return None
    mine = over_time(mentions, whole.buckets, categories)
    rows, judged, stopped = map(_rest, whole.counts[:3], mine[:3])
    return WatchedOver(
        whole.buckets, mine, Counts(rows, judged, stopped, {}), tuple(changes(mine.stopped, mine.judged)),
        tuple(changes(mine.rows, whole.counts.rows)),
    )  # fmt: skip


def _rest(whole: Sequence[int], mine: Sequence[int]) -> tuple[int, ...]:
    return tuple(all_ - some for all_, some in zip(whole, mine, strict=True))
