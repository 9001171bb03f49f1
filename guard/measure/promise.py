"""Promises such as `precision>=0.95@prevalence=0.1`: how a threshold is chosen so that one keeps it.

The labelled items are split in two: on the first part a threshold is *chosen*, on the second it is *checked*. A
threshold that looks right on n items is too good to be true half of the time, so the one chosen must keep the promise
even where the second part turns out as bad as it may. How bad that is follows from counting alone: when F of N
acceptable items are stopped at a threshold and the split was drawn at random, the number that falls into the first
part is hypergeometric (Fisher 1935), whatever the model. The bound on the second part is the largest count that the
first part leaves possible at the 2.5 % level, so a promise about one rate fails there in at most one split of 40.

Both halves hold 100 acceptable items, and of the first 2 were stopped: in the second it may be up to 9, so the
false-positive rate that can be promised is 0.09 and not 0.02.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom

from guard.measure.intervals import Bools, Estimate, Ints
from guard.measure.metrics import Judged, false_positive_rate, precision, precision_at, recall

LEVEL = 0.025  # the lower end of a two-sided 95 % interval
_GRAMMAR = re.compile(
    r"\s*(?P<metric>precision|recall|fpr)\s*(?P<sense>>=|<=)\s*(?P<value>[0-9.]+)\s*"
    r"(?:@\s*prevalence\s*=\s*(?P<prevalence>[0-9.]+)\s*)?"
)
GRAMMAR = 'precision>=0.95, precision>=0.95@prevalence=0.1, recall>=0.9 or fpr<=0.01 ("harmful" is the positive class)'
_MOST = 1_000_000  # labels: nobody has more, and a search must end


@dataclass(frozen=True)
class Promise:
    """A bound on precision, recall or false-positive rate (`fpr`) of what is stopped; harmful is the positive class.

    >>> Promise.parse("precision >= 0.95 @ prevalence=0.1")
    Promise(metric='precision', value=0.95, prevalence=0.1)
    >>> str(Promise.parse("fpr<=0.01"))
    'fpr<=0.01'
    """

    metric: str
    value: float
    prevalence: float | None = None

    @classmethod
    def parse(cls, text: str) -> Promise:
        """Read one. Raises `ValueError`, which says what can be promised."""
        found = _GRAMMAR.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            metric, value = found["metric"], float(found["value"])
            prevalence = None if found["prevalence"] is None else float(found["prevalence"])
        except ValueError:
            raise ValueError(f"{text!r} is not a promise; write {GRAMMAR}") from None
        if (found["sense"] == "<=") != (metric == "fpr"):
            raise ValueError(f"{text!r}: precision and recall are at least (>=), fpr is at most (<=) something")
        if not 0 < value < 1 or (prevalence is not None and not 0 < prevalence < 1):
            raise ValueError(f"{text!r}: the numbers must lie between 0 and 1")
        if prevalence is not None and metric != "precision":
            raise ValueError(f"{text!r}: only precision depends on the prevalence")
        return cls(metric, value, prevalence)

    def __str__(self) -> str:
        sense = "<=" if self.metric == "fpr" else ">="
        at = "" if self.prevalence is None else f"@prevalence={self.prevalence:g}"
        return f"{self.metric}{sense}{self.value:g}{at}"

    def measured(self, judged: Judged) -> Estimate:
        """The promised figure on items as they were decided, with its interval."""
        if self.metric == "recall":
            return recall(judged, "harmful")
        if self.metric == "fpr":
            return false_positive_rate(judged)
        if self.prevalence is None:
            return precision(judged, "harmful")
        return precision_at(judged, self.prevalence)

    def kept_by(self, figure: float | None) -> bool:
        """Does a figure keep it? An undefined one does not: nothing stopped is no precision."""
        if figure is None:
            return False
        return figure <= self.value if self.metric == "fpr" else figure >= self.value

    def figure(self, caught: float, stopped: float, harmful: int, acceptable: int) -> float | None:
        """The promised figure from counts: of `harmful` items `caught`, of `acceptable` ones `stopped`.

        >>> Promise("precision", 0.9, 0.1).figure(8, 2, 10, 100)  # .1 * .8 / (.1 * .8 + .9 * .02)
        0.8163265306122449
        """
        hit, false = caught / harmful, stopped / acceptable
        if self.metric == "recall":
            return hit
        if self.metric == "fpr":
            return false
        share = harmful / (harmful + acceptable) if self.prevalence is None else self.prevalence
        said = share * hit + (1 - share) * false
        return share * hit / said if said else None

    def worst(self, seen: Counts, other: Counts) -> float | None:
        """The worst figure that the second part (its sizes in `other`) may show after the first part's counts."""
        if not (seen.harmful and seen.acceptable and other.harmful and other.acceptable):
            return None
        # two rates share the level between them
        level = LEVEL / 2 if self.metric == "precision" else LEVEL
        stopped = most(seen.stopped, seen.acceptable, other.acceptable, level)
        caught = other.harmful - most(seen.harmful - seen.caught, seen.harmful, other.harmful, level)
        return self.figure(caught, stopped, other.harmful, other.acceptable)


class Counts(NamedTuple):
    """Of `harmful` items `caught`, of `acceptable` ones `stopped`."""

    caught: int
    harmful: int
    stopped: int
    acceptable: int

    def times(self, factor: float) -> Counts:
        """`factor` times as many items, errors rounded up and items down.

        >>> Counts(8, 10, 1, 10).times(0.5)
        Counts(caught=4, harmful=5, stopped=1, acceptable=5)
        """
        harmful, acceptable = math.floor(self.harmful * factor), math.floor(self.acceptable * factor)
        missed = min(harmful, math.ceil((self.harmful - self.caught) * factor))
        return Counts(harmful - missed, harmful, min(acceptable, math.ceil(self.stopped * factor)), acceptable)


@lru_cache(maxsize=100_000)
def most(seen: int, size: int, other: int, level: float) -> int:
    """The largest count among `other` items that `seen` among `size` leaves possible, drawn from the same pile.

    Exact: the count among the first, given the pile's, is hypergeometric.

    >>> most(0, 100, 100, 0.025)
    5
    >>> most(2, 100, 100, 0.025)
    9
    """
    low, high = 0, other
    while low < high:  # the tail falls as the count grows
        middle = (low + high + 1) // 2
        if float(hypergeom.cdf(seen, size + other, seen + middle, size)) >= level:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Choice:
    """A threshold, what the first part showed there, and the worst that the second part may show."""

    threshold: float
    seen: Counts
    worst: float


@dataclass(frozen=True)
class Shortage:
    """No threshold can be promised. `needed`: labels of each class that would do, None where no number would."""

    best: float | None
    needed: tuple[int, int] | None


def split(groups: Ints, strata: Ints, seed: int) -> Bools:
    """Which of N items are in the first part: half of the groups of each stratum, at random.

    A group is never divided; its stratum is that of its first item.
    """
    draw = np.random.default_rng(seed)
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)
    chosen = np.zeros(len(first), bool)
    for stratum in np.unique(strata[first]):
        members = draw.permutation(np.flatnonzero(strata[first] == stratum))
        chosen[members[: (len(members) + 1) // 2]] = True
    return np.asarray(chosen[index])


def choose(promise: Promise, first: Judged, harmful: int, acceptable: int) -> Choice | Shortage:
    """The threshold on the first part's scores that keeps the promise on a second part of the given sizes.

    Among those that do, the one that gives most elsewhere: the lowest for precision and false-positive rate (it catches
    most), the highest for recall (it stops least). Items without a score count as stopped at any threshold. Items in
    groups count as no more than the groups are.
    """
    if not first.harmful.any() or first.harmful.all() or not harmful or not acceptable:
        return Shortage(None, None)
    independent = len(np.unique(first.groups)) / len(first)
    other = Counts(0, harmful, 0, acceptable).times(independent)
    steps = [(threshold, seen.times(independent)) for threshold, seen in _steps(first)]
    kept = [
        Choice(threshold, seen, worst)
        for threshold, seen in steps
        if (worst := promise.worst(seen, other)) is not None and promise.kept_by(worst)
    ]
    if kept:
        return max(kept, key=lambda choice: choice.threshold * (1 if promise.metric == "recall" else -1))
    figures = [
        promise.figure(s.caught, s.stopped, s.harmful, s.acceptable) for _, s in steps if s.harmful and s.acceptable
    ]
    reached = [figure for figure in figures if figure is not None]
    best = (min if promise.metric == "fpr" else max)(reached, default=None)
    needed = _needed(promise, [seen for _, seen in steps])
    return Shortage(best, needed and (math.ceil(needed[0] / independent), math.ceil(needed[1] / independent)))


def _steps(judged: Judged) -> list[tuple[float, Counts]]:
    """Counts at each threshold between two neighbouring scores, from the highest threshold down."""
    score = np.where(np.isnan(judged.score), np.inf, judged.score)
    distinct = np.unique(score[np.isfinite(score)])[::-1]
    harmful, good = np.sort(score[judged.harmful]), np.sort(score[~judged.harmful])
    steps = []
    for upper, lower in zip(distinct, [*distinct[1:], 0.0], strict=True):
        threshold = _between(float(lower), float(upper))
        if threshold is not None:
            caught = len(harmful) - int(np.searchsorted(harmful, threshold))
            stopped = len(good) - int(np.searchsorted(good, threshold))
            steps.append((threshold, Counts(caught, len(harmful), stopped, len(good))))
    return steps


def _between(lower: float, upper: float) -> float | None:
    """The shortest number above `lower` and at most `upper` that a policy can hold (inside 0 and 1)."""
    for digits in range(2, 17):
        threshold = round((lower + upper) / 2, digits)
        if lower < threshold <= upper and 0 < threshold < 1:
            return threshold
    return None


def _needed(promise: Promise, seen: list[Counts]) -> tuple[int, int] | None:
    """Labels (harmful, acceptable; both parts together) with which it could be kept, were the rates those seen."""

    def kept(factor: float) -> bool:
        return any(promise.kept_by(promise.worst(more, more)) for more in (counts.times(factor) for counts in seen))

    low, high = 1.0, 2.0
    while not kept(high):
        low, high = high, 2 * high
        if high * (seen[0].harmful + seen[0].acceptable) > _MOST:
            return None
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if kept(middle) else (middle, high)
    return 2 * math.ceil(seen[0].harmful * high), 2 * math.ceil(seen[0].acceptable * high)
