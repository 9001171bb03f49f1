"""When did a share change? The best cut of a series of counts into stretches of one share each.

Bucket i has k[i] hits of n[i]. A stretch costs its deviance under one common share; a cut costs a penalty. The cheapest
way to cut is found exactly, by dynamic programming over the ends of stretches (Jackson et al. 2005, "An algorithm for
optimal partitioning of data on an interval").

- Real counts scatter more than coins do (threads, weekends). The deviance is divided by that dispersion, estimated from
  neighbouring buckets, which a few changes of level hardly touch, and never taken below 1.
- The penalty is what F with 1 and half as many degrees of freedom as there are such neighbours exceeds with probability
  1 % / (number of places for a cut): Bonferroni over the places; F and half, because the dispersion is an estimate, and
  a median's. The share of steady series in which it still cuts is measured in `tests/report/test_changes.py`.
- A stretch may be a single bucket: a burst is two changes, there and back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from scipy.stats import f as f_distribution

from guard.measure.intervals import Estimate
from guard.report.rates import share

FALSE_ALARMS = 0.01  # aimed at, in a series without a change
_FEWEST = 4  # buckets with rows, under which nothing can be said of their scatter
_MEDIAN_OF_CHI2 = 0.4549364


class Change(NamedTuple):
    """From bucket `at` on, the share is another one than it was in the stretch before."""

    at: int
    before: Estimate
    after: Estimate


def changes(hits: ArrayLike, of: ArrayLike) -> list[Change]:
    """The changes of the share `hits` / `of` [buckets], in order. Buckets without rows count for nothing.

    >>> found = changes([9, 8, 9, 7, 9, 8, 29, 28, 31, 30, 29, 30], [100] * 12)
    >>> [(change.at, round(change.before.value, 3), round(change.after.value, 3)) for change in found]
    [(6, 0.083, 0.295)]
    >>> changes([2, 1, 2, 2, 1, 2], [100] * 6)
    []
    """
    all_of = np.asarray(of, float)
    filled = np.flatnonzero(all_of > 0)
    k, n = np.asarray(hits, float)[filled], all_of[filled]
    cuts = _cuts(k, n)
    edges = [0, *cuts, len(k)]
    shares = [share(int(k[a:b].sum()), int(n[a:b].sum())) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]
    return [Change(int(filled[cut]), *shares[i : i + 2]) for i, cut in enumerate(cuts)]


def _cuts(k: NDArray[np.float64], n: NDArray[np.float64]) -> list[int]:
    m = len(k)
    if m < _FEWEST or k.sum() in (0, n.sum()):
        return []
    penalty = float(f_distribution.isf(FALSE_ALARMS / (m - 1), 1, (m - 1) / 2))
    cost = _costs(k, n) / dispersion(k, n)
    best = np.full(m + 1, np.inf)
    best[0] = -penalty
    last = np.zeros(m + 1, int)
    for end in range(1, m + 1):
        total = best[:end] + cost[:end, end] + penalty
        last[end] = np.argmin(total)
        best[end] = total.min()
    cuts = []
    at = int(last[m])
    while at > 0:
        cuts.append(at)
        at = int(last[at])
    return cuts[::-1]


def _costs(k: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """-2 log-likelihood of buckets a to b-1 under their common share: [a, b]."""
    hits, rows = np.concatenate([[0], np.cumsum(k)]), np.concatenate([[0], np.cumsum(n)])
    k_ab = np.maximum(hits[None, :] - hits[:, None], 0)
    n_ab = np.maximum(rows[None, :] - rows[:, None], 1)
    rest = np.maximum(n_ab - k_ab, 0)
    cost: NDArray[np.float64] = -2 * (xlogy(k_ab, k_ab) + xlogy(rest, rest) - xlogy(n_ab, n_ab))
    return cost


def dispersion(k: NDArray[np.float64], n: NDArray[np.float64]) -> float:
    """How much more neighbouring buckets differ than coins with the common share would; at least 1.

    The median of the squared standardised differences, over the median of chi-squared, so that up to half of the
    differences may be changes of level.
    """
    p = k.sum() / n.sum()
    differences = np.diff(k / n) ** 2 / (p * (1 - p) * (1 / n[1:] + 1 / n[:-1]))
    return max(1.0, float(np.median(differences)) / _MEDIAN_OF_CHI2)
