"""Estimates with 95 % intervals: Wilson for what is counted, a stratified bootstrap for what is read off a curve.

Items that come in pairs or families (a harmful text and its safe twin) are not independent. G groups of items:

- a rate k/n gets Wilson's interval (Wilson 1927) with n divided by the design effect of its groups (Kish 1965), never
  below 1; where all or none of the n hit, the groups tell nothing of it, and n is the number of groups;
- a curve's figure is computed on R resamples of the groups, drawn within strata (all harmful, all acceptable, mixed),
  so that no resample lacks a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z95 = 1.959963984540054
RESAMPLES = 1000
FEWEST_RESAMPLES = 200  # of large sets, whose intervals are narrow and whose resamples take long
SEED = 20231010  # any number will do, as long as it stays the same: a report must come out the same twice


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval and the number of items that it rests on. Undefined: `value` None, with a reason."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """A plain object; figures rounded to 6 digits, so that the last bits of a processor do not show."""
        return {name: round(found, 6) if isinstance(found, float) else found for name, found in asdict(self).items()}


def undefined(reason: str, n: int = 0) -> Estimate:
    """No number is right here, and 0 would be a lie."""
    return Estimate(None, None, None, n, reason)


def wilson(hits: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a rate of `hits` in `n` > 0; both may be fractions of an effective size.

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    >>> [round(bound, 4) for bound in wilson(10, 10)]
    [0.7225, 1.0]
    """
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends the interval ends there too; rounding must not say otherwise
    return (0.0 if hits == 0 else max(0.0, centre - half)), (1.0 if hits == n else min(1.0, centre + half))


def rate(hits: Bools, groups: Ints, empty: str) -> Estimate:
    """The share of True in `hits` [n], whose items belong to `groups` [n]; `empty` is the reason when n is 0.

    Two pairs, one right in both, one in none: the share is 2/4, and the pairs tell no more than two items would.

    >>> hits = np.array([True, True, False, False])
    >>> rate(hits, np.array([0, 0, 1, 1]), "none").as_json()
    {'value': 0.5, 'low': 0.094531, 'high': 0.905469, 'n': 4, 'reason': None}
    >>> rate(hits, np.array([0, 1, 2, 3]), "none").as_json()
    {'value': 0.5, 'low': 0.150039, 'high': 0.849961, 'n': 4, 'reason': None}
    """
    n = len(hits)
    if n == 0:
        return undefined(empty)
    share = float(hits.mean())
    effective = n / _design_effect(hits, groups, share)
    low, high = wilson(share * effective, effective)
    return Estimate(share, low, high, n)


def paired_difference(before: Bools, after: Bools, groups: Ints, empty: str) -> Estimate:
    """The rate of `after` less the rate of `before`, of the same items [n]; groups and `empty` as in `rate`.

    Newcombe's square-and-add interval for pairs (1998, method 10): the distances of both rates from their own bounds,
    added at the angle that the correlation of the pairs gives.

    >>> before, after = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [1, 7, 1, 12], axis=0).astype(bool).T
    >>> paired_difference(before, after, np.arange(21), "none").as_json()
    {'value': -0.285714, 'low': -0.50692, 'high': -0.025559, 'n': 21, 'reason': None}
    """
    old, new = rate(before, groups, empty), rate(after, groups, empty)
    if old.value is None or old.low is None or old.high is None:
        return undefined(empty)
    assert new.value is not None and new.low is not None and new.high is not None  # of the same items
    angle = 2 * _correlation(before, after)

    def apart(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - angle * one * other + other * other))

    change = new.value - old.value
    low = change - apart(new.value - new.low, old.high - old.value)
    return Estimate(change, low, change + apart(new.high - new.value, old.value - old.low), len(before))


def _correlation(before: Bools, after: Bools) -> float:
    """Phi of the pairs with Newcombe's correction for continuity; 0 where one side is all the same."""
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    only_old, only_new = int((before & ~after).sum()), int((~before & after).sum())
    margins = (both + only_old) * (both + only_new) * (neither + only_old) * (neither + only_new)
    excess = float(both * neither - only_old * only_new)
    if excess > 0:
        excess = max(0.0, excess - len(before) / 2)
    return excess / math.sqrt(margins) if margins else 0.0


def _design_effect(hits: Bools, groups: Ints, share: float) -> float:
    """Variance of the share with its groups, over that of as many independent items; at least 1."""
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n, g = len(hits), len(sizes)
    if g == n:
        return 1.0
    if share in (0.0, 1.0) or g == 1:
        return n / g
    # linearised ratio estimator: each group's hits minus what it would have at the common share
    excess = np.bincount(index, weights=hits) - share * sizes
    variance = g / (g - 1) * float((excess**2).sum()) / n**2
    return min(max(1.0, variance / (share * (1 - share) / n)), n / g)


def resamples(harmful: Bools, groups: Ints, count: int | None = None, seed: int = SEED) -> NDArray[np.int32]:
    """How often each of N items stands in each of `count` resamples: [count, N].

    By default 1,000, above 4,000 items fewer, so that four million numbers are enough, and never below 200.
    """
    if count is None:
        count = min(RESAMPLES, max(FEWEST_RESAMPLES, 4_000_000 // max(1, len(harmful))))
    _, index = np.unique(groups, return_inverse=True)
    g = int(index.max()) + 1 if len(index) else 0
    has_harm, has_good = np.zeros(g, bool), np.zeros(g, bool)
    has_harm[index[harmful]] = True
    has_good[index[~harmful]] = True
    stratum = has_harm.astype(int) + 2 * has_good.astype(int)
    draw = np.random.default_rng(seed)
    drawn = np.zeros((count, g), np.int32)
    for kind in (1, 2, 3):
        members = np.flatnonzero(stratum == kind)
        if len(members):
            drawn[:, members] = draw.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
    return drawn[:, index]


def bootstrapped(value: float, resampled: Floats, n: int) -> Estimate:
    """An estimate with the percentile interval of its R resampled values; those that are NaN are left out."""
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    # a statistic at the edge of its resamples (ECE is biased upwards in them) still lies in its own interval
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def over_resamples(function: Callable[[NDArray[np.int32]], Floats], weights: NDArray[np.int32]) -> Floats:
    """`function` of `weights` [R, N], some resamples at a time, so that R x N numbers need not fit in memory."""
    rows = max(1, 2_000_000 // max(1, weights.shape[1]))
    return np.concatenate([function(weights[at : at + rows]) for at in range(0, len(weights), rows)])
