"""Ten to sixty points, whatever the span."""

# ruff: noqa: DTZ001  (times are in UTC and have no zone, as polars keeps them)

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from guard.report.buckets import MOST, buckets, of_rows
from guard.report.found import over_time
from tests.report.conftest import numbered, row


@given(st.datetimes(datetime(1000, 1, 1), datetime(5000, 1, 1)), st.floats(50, 3e10))
def test_any_span_gives_ten_to_sixty_buckets_that_cover_it(first: datetime, seconds: float):
    last = first + timedelta(seconds=seconds)
    found = buckets(first, last)
    assert 10 <= len(found.starts) <= MOST
    assert found.starts[0] <= first and found.starts[-1] <= last
    assert list(found.starts) == sorted(set(found.starts))


def test_a_single_moment_is_one_bucket():
    assert len(buckets(datetime(2024, 1, 1), datetime(2024, 1, 1)).starts) == 1


def test_nine_thousand_years_fit():
    assert len(buckets(datetime(1000, 1, 1), datetime(9999, 12, 31)).starts) <= MOST


def test_steps_are_named_as_people_say_them():
    first = datetime(2024, 1, 1)
    spans = {"hour": 2, "12 hours": 10, "day": 40, "week": 300, "month": 1500, "year": 10000}
    assert {name: buckets(first, first + timedelta(days=days)).name for name, days in spans.items()} == {
        name: name for name in spans
    }


def test_a_few_wild_clocks_are_counted_apart(rows_of: Callable):
    days = [f"2024-01-{day:02}T{hour:02}:00:00" for day in range(1, 31) for hour in range(24)] * 3
    rows = rows_of(numbered(row(time=time) for time in [*days, "1970-01-01", "2999-01-01", None]))
    found, outside = of_rows(rows.lazy())
    assert found and (found.name, len(found.starts), outside) == ("12 hours", 60, 2)
    assert over_time(rows.lazy(), found, ()).rows == (36,) * 60


def test_rows_without_times_have_no_buckets(rows_of: Callable):
    assert of_rows(rows_of([row()]).lazy()) == (None, 0)
