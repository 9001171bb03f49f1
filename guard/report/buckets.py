"""Stretches of time, so long that a chart of them has 10 to 60 points.

A few rows with a wild clock (1970, 2999) must not press all others into one bucket: times far outside of the middle
99.8 % are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

MOST = 60
_LEAST_REACH = 600_000_000  # microseconds
_WEEK, _MONTH, _YEAR = 7 * 86400, 30.4375 * 86400, 365.25 * 86400
_STEPS = (  # each is at most 5 times the one before, so that one of them gives at least 10
    ("1s", 1.0, "second"), ("5s", 5.0, "5 seconds"), ("15s", 15.0, "15 seconds"),
    ("1m", 60.0, "minute"), ("5m", 300.0, "5 minutes"), ("15m", 900.0, "15 minutes"),
    ("1h", 3600.0, "hour"), ("3h", 3 * 3600.0, "3 hours"), ("12h", 12 * 3600.0, "12 hours"), ("1d", 86400.0, "day"),
    ("2d", 2 * 86400.0, "2 days"), ("1w", _WEEK, "week"), ("1mo", _MONTH, "month"), ("3mo", 3 * _MONTH, "quarter"),
    ("1y", _YEAR, "year"), ("5y", 5 * _YEAR, "5 years"), ("25y", 25 * _YEAR, "25 years"),
    ("100y", 100 * _YEAR, "century"), ("500y", 500 * _YEAR, "500 years"),
)  # fmt: skip


@dataclass(frozen=True)
class Buckets:
    """Equal stretches of time, one after the other. `starts` are in UTC."""

    every: str  # as polars writes it
    name: str
    starts: tuple[datetime, ...]

    def of(self, time: pl.Expr) -> pl.Expr:
        """The start of the bucket in which a time lies; null outside of all."""
        bucket = time.dt.truncate(self.every)
        return pl.when(bucket.is_between(self.starts[0], self.starts[-1])).then(bucket)

    def label(self, start: datetime) -> str:
        return f"{start:%Y-%m-%d}" if self.every[-1] in "dwoy" else f"{start:%Y-%m-%d %H:%M:%S}".removesuffix(":00")


def buckets(first: datetime, last: datetime) -> Buckets:
    """The shortest stretches with which at most 60 reach from `first` to `last`; at least 10 where that takes 50 s.

    >>> found = buckets(datetime(2024, 1, 1), datetime(2024, 3, 31))
    >>> found.name, len(found.starts)
    ('2 days', 46)
    """
    ends = pl.Series([first, last], dtype=pl.Datetime("us"))
    for every, seconds, name in _STEPS:
        if (last - first).total_seconds() / seconds > MOST:
            continue
        low, high = ends.dt.truncate(every).to_list()
        starts = pl.datetime_range(low, high, every, eager=True).to_list()
        if len(starts) <= MOST:
            return Buckets(every, name, tuple(starts))
    raise AssertionError("ten thousand years are 20 times 500")


def of_rows(rows: pl.LazyFrame) -> tuple[Buckets | None, int]:
    """Buckets for the rows' times, if they have any, and the number of rows whose time is far outside of them."""
    time, stamp = pl.col("time"), pl.col("time").dt.epoch("us")
    middle = rows.select(low=stamp.quantile(0.001, "nearest"), high=stamp.quantile(0.999, "nearest"))
    low, high = middle.collect(engine="streaming").row(0)
    if low is None:
        return None, 0
    reach = max(high - low, _LEAST_REACH)
    near = stamp.is_between(low - reach, high + reach)
    first, last, outside = (
        rows.filter(time.is_not_null())
        .select(first=time.filter(near).min(), last=time.filter(near).max(), outside=(~near).sum())
        .collect(engine="streaming")
        .row(0)
    )
    return buckets(first, last), outside
