"""Shares of counted rows, with Wilson's 95 % interval, and how they are written."""

from __future__ import annotations

from guard.measure.intervals import Estimate, undefined, wilson

FEWEST = 30  # rows under which a share would say more about chance than about a board or an author


def share(hits: int, of: int, fewest: int = 1) -> Estimate:
    """The share of `hits` in `of` rows; undefined where there are fewer than `fewest`."""
    if of < max(1, fewest):
        return undefined("no rows" if of == 0 else f"fewer than {fewest} rows", of)
    return Estimate(hits / of, *wilson(hits, of), of)


def percent(found: Estimate) -> str:
    """
    >>> percent(share(3, 100)), percent(share(1, 9, fewest=30))
    ('3.0 % (1.0–8.5)', '– (fewer than 30 rows)')
    """
    if found.value is None or found.low is None or found.high is None:
        return f"– ({found.reason})"
    digits = 1 if found.value >= 0.01 or found.value == 0 else 2
    value, low, high = (f"{100 * figure:.{digits}f}" for figure in (found.value, found.low, found.high))
    return f"{value} % ({low}–{high})"
