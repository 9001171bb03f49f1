"""Two judgements of the same items: what changed, and whether that is more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from guard.measure.intervals import Bools


@dataclass(frozen=True)
class Change:
    """Items judged right by both, by one only, by neither; `p` is McNemar's exact test of `only_old` = `only_new`."""

    both: int
    only_old: int
    only_new: int
    neither: int
    p: float


def mcnemar(old_right: Bools, new_right: Bools) -> Change:
    """McNemar's exact test (1947): under no difference each changed item falls to either side like a coin.

    >>> old = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool)
    >>> new = np.array([1, 0, 0, 0, 0, 1, 1, 0], bool)
    >>> mcnemar(old, new)  # 4 against 1: 2 * (5 + 1) / 2**5
    Change(both=2, only_old=4, only_new=1, neither=1, p=0.375)
    """
    only_old = int(np.sum(old_right & ~new_right))
    only_new = int(np.sum(~old_right & new_right))
    changed = only_old + only_new
    p = float(binomtest(only_old, changed).pvalue) if changed else 1.0
    return Change(int(np.sum(old_right & new_right)), only_old, only_new, int(np.sum(~old_right & ~new_right)), p)
