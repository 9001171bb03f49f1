"""What a scan found, counted: by decision, category, time, board and author; scores, errors, and the worst rows.

The one rule: a share is of the rows that were judged; rows without a verdict are counted apart, never as harmless.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import polars as pl

from guard.measure.intervals import Estimate
from guard.report.buckets import Buckets, of_rows
from guard.report.rates import FEWEST, share
from guard.report.source import Rows

TOP = 15  # boards, and authors, that are listed
WORST = 25
BINS = 20  # of scores
NAMES = 100  # of decisions, categories, codes, policies: a file may say anything, and a page must end


@dataclass(frozen=True)
class Place:
    """A board or an author: rows judged, rows stopped and the share, undefined under `FEWEST` rows."""

    name: str
    judged: int
    stopped: int
    share: Estimate
    categories: tuple[str, ...]  # the commonest, at most three


@dataclass(frozen=True)
class Places:
    """Those with the most stopped rows, and how many there are in all."""

    top: tuple[Place, ...]
    different: int
    with_stopped: int
    unknown: int  # rows that have none


class Counts(NamedTuple):
    """Rows per bucket of time [buckets]; of each category, stopped rows."""

    rows: tuple[int, ...]
    judged: tuple[int, ...]
    stopped: tuple[int, ...]
    categories: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Over:
    """The rows over time; the commonest category first."""

    buckets: Buckets
    counts: Counts
    outside: int  # rows with a time far from all others
    untimed: int


@dataclass(frozen=True)
class Worst:
    """A stopped row with one of the highest scores."""

    id: str
    decision: str
    score: float | None
    categories: tuple[str, ...]
    author: str | None
    board: str | None
    time: datetime | None
    text: str | None


@dataclass(frozen=True)
class Found:
    """All counts of a scan."""

    rows: int
    judged: int
    stopped: int
    decisions: dict[str, int]
    categories: dict[str, int]
    errors: dict[str, int]
    truncated: int
    unsupported_language: int
    policies: tuple[str, ...]
    models: tuple[str, ...]
    histogram: dict[str, tuple[int, ...]]  # `allow` and `stopped`: rows per bin of the score [BINS]
    over: Over | None
    boards: Places
    authors: Places
    worst: tuple[Worst, ...]


def found(rows: Rows) -> Found:
    """Count everything."""
    lazy = rows.lazy()
    facts = lazy.select(
        judged=pl.col("judged").sum(), stopped=pl.col("stopped").sum(), truncated=pl.col("truncated").sum(),
        unsupported=pl.col("unsupported_language").sum(),
    ).collect(engine="streaming").row(0, named=True)  # fmt: skip
    stopped = lazy.filter("stopped")
    categories = counted(stopped.select(each_category()).drop_nulls())
    return Found(
        rows=rows.total, judged=facts["judged"] or 0, stopped=facts["stopped"] or 0,
        decisions=counted(lazy.select(pl.col("decision").fill_null("(none)"))),
        categories=categories,
        errors=counted(lazy.select(pl.col("code")).drop_nulls()),
        truncated=facts["truncated"] or 0, unsupported_language=facts["unsupported"] or 0,
        policies=tuple(counted(lazy.select(pl.col("policy")).drop_nulls())),
        models=tuple(counted(lazy.select(pl.col("model")).drop_nulls())),
        histogram=_histogram(lazy), over=_over(rows, categories), boards=_places(lazy, "board"),
        authors=_places(lazy, "author"), worst=worst_of(stopped, WORST),
    )  # fmt: skip


def counted(column: pl.LazyFrame) -> dict[str, int]:
    """How often each value of the one column stands in it, the commonest first, at most `NAMES`."""
    (name,) = column.collect_schema().names()
    counts = column.group_by(name).agg(rows=pl.len()).sort("rows", name, descending=[True, False]).head(NAMES)
    return dict(counts.collect(engine="streaming").iter_rows())


def each_category() -> pl.Expr:
    """A row per category; a row that names one twice counts once."""
    return pl.col("categories").list.unique().explode()


def _histogram(lazy: pl.LazyFrame) -> dict[str, tuple[int, ...]]:
    bins = (
        lazy.filter(pl.col("judged") & pl.col("score").is_not_null())
        .group_by("stopped", bin=(pl.col("score") * BINS).floor().clip(0, BINS - 1).cast(pl.Int64)).agg(rows=pl.len())
        .collect(engine="streaming")
    )  # fmt: skip
    counts = {(stopped, bin_): rows for stopped, bin_, rows in bins.iter_rows()}
    return {
        name: tuple(counts.get((stopped, i), 0) for i in range(BINS))
        for name, stopped in (("allow", False), ("stopped", True))
    }


def _over(rows: Rows, categories: Iterable[str]) -> Over | None:
    found_buckets, outside = of_rows(rows.lazy())
    if found_buckets is None:
        return None
    counts = over_time(rows.lazy(), found_buckets, categories)
    return Over(found_buckets, counts, outside, rows.total - sum(counts.rows) - outside)


def over_time(lazy: pl.LazyFrame, of: Buckets, categories: Iterable[str]) -> Counts:
    """Rows per bucket, and stopped rows of each of some categories."""
    bucketed = lazy.with_columns(bucket=of.of(pl.col("time"))).filter(pl.col("bucket").is_not_null())
    totals = (
        bucketed.group_by("bucket").agg(pl.len().alias("rows"), pl.col("judged").sum(), pl.col("stopped").sum())
        .collect(engine="streaming")
    )  # fmt: skip
    frame = pl.DataFrame({"bucket": of.starts}, schema={"bucket": pl.Datetime("us")})
    frame = frame.join(totals, on="bucket", how="left", maintain_order="left").fill_null(0)
    per_bucket = {name: [0] * len(of.starts) for name in categories}
    named = (
        bucketed.filter("stopped").select("bucket", category=pl.col("categories").list.unique()).explode("category")
        .filter(pl.col("category").is_in(list(per_bucket))).group_by("category", "bucket").agg(rows=pl.len())
        .collect(engine="streaming")
    )  # fmt: skip
    place = {start: i for i, start in enumerate(of.starts)}
    for category, bucket, rows in named.iter_rows():
        per_bucket[category][place[bucket]] = rows
    rows, judged, stopped = (tuple(frame[name].to_list()) for name in ("rows", "judged", "stopped"))
    return Counts(rows, judged, stopped, {name: tuple(counts) for name, counts in per_bucket.items()})


def _places(lazy: pl.LazyFrame, column: str) -> Places:
    unknown = lazy.select(pl.col(column).is_null().sum()).collect(engine="streaming").item() or 0
    counts = (
        lazy.filter(pl.col(column).is_not_null()).group_by(column).agg(pl.col("judged").sum(), pl.col("stopped").sum())
    )
    sums = counts.select(pl.len(), (pl.col("stopped") > 0).sum()).collect(engine="streaming").row(0)
    top = (
        counts.filter(pl.col("stopped") > 0).sort("stopped", column, descending=[True, False]).head(TOP)
        .collect(engine="streaming")
    )  # fmt: skip
    named = (
        lazy.filter(pl.col("stopped") & pl.col(column).is_in(top[column].implode()))
        .select(column, category=pl.col("categories").list.unique()).explode("category").drop_nulls()
        .group_by(column, "category").agg(rows=pl.len()).sort("rows", "category", descending=[True, False])
        .group_by(column, maintain_order=True).agg(pl.col("category").head(3)).collect()
    )  # fmt: skip
    categories = dict(named.iter_rows())
    return Places(
        tuple(
            Place(name, judged, stopped, share(stopped, judged, FEWEST), tuple(categories.get(name, ())))
            for name, judged, stopped in top.iter_rows()
        ),
        different=sums[0], with_stopped=sums[1] or 0, unknown=unknown,
    )  # fmt: skip


def worst_of(stopped: pl.LazyFrame, most: int) -> tuple[Worst, ...]:
    """The `most` of some stopped rows with the highest scores."""
    chosen = (
        stopped.select("number", score=pl.col("score").fill_null(-1.0))
        .sort("score", "number", descending=[True, False]).head(most).select("number").collect(engine="streaming")
    )  # fmt: skip
    rows = stopped.filter(pl.col("number").is_in(chosen["number"].implode())).collect(engine="streaming")
    rows = chosen.join(rows, on="number", how="left", maintain_order="left")
    names = list(Worst.__dataclass_fields__)
    return tuple(
        Worst(**{**row, "id": row["id"] or "", "categories": tuple(row["categories"])})
        for row in rows.select(names).iter_rows(named=True)
    )
