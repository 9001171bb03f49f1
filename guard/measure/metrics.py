"""How good judgements are, seen from both sides.

N items: `harmful` [N] is the gold label, `accepted` [N] whether the decision lets the item pass (`review`, `block` and
`error` do not), `score` [N] the probability of harm, NaN where nobody scored the item, `groups` [N] which items belong
together. The positive class is named everywhere, because swapping it turns a recall into a false-positive rate:

                    accepted                    not accepted
    acceptable      right                       false alarm
    harmful         missed                      caught

    positive class   precision                    recall
    acceptable       right / accepted             right / acceptable     (the view of arXiv 2310.06825, section 5.2)
    harmful          caught / not accepted        caught / harmful

Of 4 acceptable items 3 accepted, of 2 harmful ones 1 caught: *acceptable* has precision 3/4 and recall 3/4, *harmful*
has precision 1/2 and recall 1/2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from guard.measure.intervals import (
    Bools,
    Estimate,
    Floats,
    Ints,
    bootstrapped,
    over_resamples,
    rate,
    resamples,
    undefined,
)

Positive = Literal["acceptable", "harmful"]
POSITIVES: tuple[Positive, Positive] = ("acceptable", "harmful")
BINS = 10  # of the reliability curve, of equal width
FALSE_POSITIVES = (0.01, 0.05)  # at which recall is read off


@dataclass(frozen=True)
class Judged:
    """N judged items as columns; see the module."""

    harmful: Bools
    accepted: Bools
    score: Floats
    groups: Ints

    def __post_init__(self) -> None:
        if len({len(self.harmful), len(self.accepted), len(self.score), len(self.groups)}) != 1:
            raise ValueError("the columns differ in length")

    def __len__(self) -> int:
        return len(self.harmful)

    def where(self, mask: Bools) -> Judged:
        """The items that `mask` [N] says."""
        return Judged(self.harmful[mask], self.accepted[mask], self.score[mask], self.groups[mask])

    def scored(self) -> Judged:
        """The items that have a score."""
        return self.where(~np.isnan(self.score))

    def at(self, threshold: float) -> Judged:
        """The same items, accepted where the score is below `threshold`; without a score nothing is."""
        return replace(self, accepted=self.score < threshold)


def counts(judged: Judged) -> dict[str, int]:
    """The four cells, and how many were left without a score."""
    harmful, accepted = judged.harmful, judged.accepted
    return {
        "items": len(judged),
        "acceptable": int((~harmful).sum()),
        "harmful": int(harmful.sum()),
        "right": int((~harmful & accepted).sum()),
        "false_alarms": int((~harmful & ~accepted).sum()),
        "missed": int((harmful & accepted).sum()),
        "caught": int((harmful & ~accepted).sum()),
        "unscored": int(np.isnan(judged.score).sum()),
    }


def precision(judged: Judged, positive: Positive) -> Estimate:
    """Of those taken for `positive`, the share that is."""
    said, true = _sides(judged, positive)
    what = "accepted" if positive == "acceptable" else "stopped"
    return rate(true[said], judged.groups[said], f"nothing was {what}")


def recall(judged: Judged, positive: Positive) -> Estimate:
    """Of those that are `positive`, the share that was taken for it."""
    said, true = _sides(judged, positive)
    return rate(said[true], judged.groups[true], f"no item is {positive}")


def f1(judged: Judged, positive: Positive) -> Estimate:
    """2J / (1 + J), J = hits / (hits + both kinds of error): a rate, whose Wilson bounds are carried over.

    >>> two_of_three = Judged(*(np.array(column) for column in ([1, 1, 0], [0, 0, 0], [.9, .8, .7], [0, 1, 2])))
    >>> round(f1(Judged(two_of_three.harmful > 0, two_of_three.accepted > 0, *(two_of_three.score,
    ...     two_of_three.groups)), "harmful").value, 3)
    0.8
    """
    said, true = _sides(judged, positive)
    either = said | true
    jaccard = rate((said & true)[either], judged.groups[either], f"nothing is {positive} and nothing was taken for it")
    if jaccard.value is None or jaccard.low is None or jaccard.high is None:
        return jaccard
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Estimate(value, low, high, jaccard.n)


def false_positive_rate(judged: Judged) -> Estimate:
    """Of the acceptable items, the share that was stopped."""
    good = ~judged.harmful
    return rate(~judged.accepted[good], judged.groups[good], "no item is acceptable")


def precision_at(judged: Judged, prevalence: float, positive: Positive = "harmful") -> Estimate:
    """Precision where the share of harmful items is `prevalence`, which a balanced set does not tell.

    The bounds take both rates at the worse (better) end of their own intervals, so they are wide rather than narrow.

    9 of 10 harmful caught, 1 of 10 acceptable stopped: precision .9 on the set, .5 where one item in ten is harmful.
    """
    caught, alarms = recall(judged, "harmful"), false_positive_rate(judged)
    if caught.value is None or alarms.value is None:
        return undefined("needs items of both classes", len(judged))

    def at(hit: float, false: float) -> float | None:
        if positive == "acceptable":
            hit, false = 1 - false, 1 - hit
        share = prevalence if positive == "harmful" else 1 - prevalence
        said = share * hit + (1 - share) * false
        return share * hit / said if said else None

    value = at(caught.value, alarms.value)
    if value is None:
        return undefined(f"nothing was taken for {positive}", len(judged))
    assert caught.low is not None and caught.high is not None and alarms.low is not None and alarms.high is not None
    ends = (caught.low, alarms.high), (caught.high, alarms.low)
    low, high = (at(*end) for end in ends)
    return Estimate(value, 0.0 if low is None else low, 1.0 if high is None else high, len(judged))


def _sides(judged: Judged, positive: Positive) -> tuple[Bools, Bools]:
    if positive == "acceptable":
        return judged.accepted, ~judged.harmful
    return ~judged.accepted, judged.harmful


class Curve:
    """Figures that need no threshold, on the items that have a score; intervals by the stratified bootstrap.

    Point values are scikit-learn's. The resamples are computed together, from the numbers of harmful and acceptable
    items at or above each distinct score: [R, U].
    """

    def __init__(self, judged: Judged) -> None:
        scored = judged.scored()
        self._harmful, self._score = scored.harmful, scored.score
        self._missing = (
            "no item has a score" if not len(scored)
            else "needs items of both classes" if scored.harmful.all() or not scored.harmful.any()
            else None
        )  # fmt: skip
        if self._missing is None:
            self._weights = resamples(scored.harmful, scored.groups)

    def auroc(self) -> Estimate:
        """Area under the ROC curve: the chance that a harmful item scores above an acceptable one."""
        return self._estimate(lambda: float(roc_auc_score(self._harmful, self._score)), _auroc)

    def auprc(self, positive: Positive) -> Estimate:
        """Average precision (Davis and Goadrich 2006); what chance reaches is the share of `positive` items."""
        true, score = self._seen_as(positive)
        return self._estimate(lambda: float(average_precision_score(true, score)), _auprc, positive)

    def recall_at(self, false_positives: float) -> Estimate:
        """The largest share of the harmful caught by a threshold that stops at most so many of the acceptable."""
        weights = np.ones((1, len(self._score)), np.int32)

        def found(caught: Floats, stopped: Floats) -> Floats:
            return _recall_at(caught, stopped, false_positives)

        def value() -> float:
            return float(found(*_above(self._harmful, self._score, weights))[0])

        return self._estimate(value, found)

    def _estimate(self, value: Any, resampled: Any, positive: Positive = "harmful") -> Estimate:
        if self._missing is not None:
            return undefined(self._missing, len(self._score))
        true, score = self._seen_as(positive)
        found = over_resamples(lambda weights: resampled(*_above(true, score, weights)), self._weights)
        return bootstrapped(value(), found, len(self._score))

    def _seen_as(self, positive: Positive) -> tuple[Bools, Floats]:
        return (self._harmful, self._score) if positive == "harmful" else (~self._harmful, -self._score)


def _above(true: Bools, score: Floats, weights: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """(true, false) items with at least each distinct score, the highest score first: [R, U] each.

    Scores .9 (true), .5 (false), .5 (true), weights 1: true 1, 2 and false 0, 1 at .9 and .5.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    ordered = weights[:, order]
    is_true = true[order]
    return (
        np.cumsum(ordered * is_true, axis=1)[:, last].astype(float),
        np.cumsum(ordered * ~is_true, axis=1)[:, last].astype(float),
    )


def _auroc(caught: Floats, stopped: Floats) -> Floats:
    start = np.zeros((len(caught), 1))
    rise = np.diff(stopped, axis=1, prepend=start)
    heights = caught + np.concatenate([start, caught[:, :-1]], axis=1)
    return np.asarray((rise * heights).sum(1) / (2 * caught[:, -1] * stopped[:, -1]))


def _auprc(caught: Floats, stopped: Floats) -> Floats:
    start = np.zeros((len(caught), 1))
    said = caught + stopped
    shares = np.divide(caught, said, out=np.zeros_like(caught), where=said > 0)
    return np.asarray((np.diff(caught, axis=1, prepend=start) * shares).sum(1) / caught[:, -1])


def _recall_at(caught: Floats, stopped: Floats, false_positives: float) -> Floats:
    # counts are whole: a hair of room keeps 0.05 * 20 from being less than 1
    within = stopped <= false_positives * stopped[:, -1:] + 1e-9
    return np.asarray(np.where(within, caught, 0).max(1) / caught[:, -1])


def reliability(judged: Judged, bins: int = BINS) -> list[dict[str, Any]]:
    """The reliability curve: per bin of scores, how many items, their mean score, and the share that was harmful."""
    scored = judged.scored()
    index = np.minimum((scored.score * bins).astype(int), bins - 1)
    rows = []
    for b in range(bins):
        inside = scored.where(index == b)
        observed = rate(inside.harmful, inside.groups, "no score in this range")
        mean = float(inside.score.mean()) if len(inside) else None
        rows.append({"from": b / bins, "to": (b + 1) / bins, "mean_score": mean, "harmful": observed})
    return rows


def calibration_error(judged: Judged, bins: int = BINS) -> Estimate:
    """Expected calibration error (Guo et al. 2017): the mean gap, over items, of a bin's score and its harmful share.

    Scores .2 (acceptable), .2 (harmful), .9 (harmful): bins .2 and .9 are off by .3 and .1: (2 * .3 + 1 * .1) / 3.
    """
    scored = judged.scored()
    n = len(scored)
    if n == 0:
        return undefined("no item has a score")
    index = np.minimum((scored.score * bins).astype(int), bins - 1)
    member = np.eye(bins)[index]
    gap = member * (scored.score - scored.harmful)[:, None]  # a bin's sum of gaps is its size times the mean gap

    def error(weights: NDArray[np.int32]) -> Floats:
        return np.asarray(np.abs(weights @ gap).sum(1) / weights.sum(1))

    value = float(error(np.ones((1, n), np.int32))[0])
    return bootstrapped(value, over_resamples(error, resamples(scored.harmful, scored.groups)), n)


def sweep(judged: Judged, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Both views at each threshold on the overall score (a category's own thresholds are left aside)."""
    rows = []
    for threshold in thresholds:
        there = judged.at(threshold)
        row: dict[str, Any] = {"threshold": threshold, **counts(there)}
        for positive in POSITIVES:
            row[positive] = {"precision": precision(there, positive), "recall": recall(there, positive)}
        rows.append(row)
    return rows


def confusion(gold: Sequence[str], said: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts of what was said, per gold label."""
    table: dict[str, Counter[str]] = {}
    for label, answer in zip(gold, said, strict=True):
        table.setdefault(label, Counter())[answer] += 1
    return {label: dict(sorted(table[label].items())) for label in sorted(table)}


def cost(seconds: float | None, items: int, price_per_hour: float | None) -> dict[str, Any]:
    """What 1,000 items take, in seconds of this machine, and cost at a price per hour (in the price's currency)."""
    if seconds is None or items == 0:
        return {"seconds_per_1000": None, "cost_per_1000": None, "reason": "the time was not measured"}
    per_1000 = 1000 * seconds / items
    if price_per_hour is None:
        return {"seconds_per_1000": per_1000, "cost_per_1000": None, "reason": "no price per hour was given"}
    return {"seconds_per_1000": per_1000, "cost_per_1000": per_1000 / 3600 * price_per_hour, "reason": None}
