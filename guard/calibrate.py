"""A promise about a policy, fitted and checked on labelled items: the work of `guard calibrate`.

    labels ──split──▶ first part ──▶ scale, shift, thresholds ──▶ new policy ──▶ judges the second part ──▶ kept?
                     └──────────────── second part, which nothing was fitted on ──────┘

The second part is judged through the moderator, under the new policy: what is promised is what is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from guard.calibration import Platt
from guard.errors import InvalidFile, PromiseRefused
from guard.item import Kind
from guard.labelled import ACCEPTABLE, LabelledSet
from guard.measure.fitting import log_odds, platt
from guard.measure.intervals import Bools, Estimate, Floats, undefined
from guard.measure.metrics import Judged, calibration_error
from guard.measure.promise import Choice, Promise, Shortage, choose, split
from guard.moderator import Moderator, Task
from guard.policy import (
    Action,
    CategoryEvidence,
    Evidence,
    Figure,
    Fit,
    FittedCalibration,
    Policy,
)
from guard.verdict import Decision, Verdict

_ENOUGH = 30  # of each class, for a kind of item to get a calibration of its own
_BLOCK = 2048  # items handed to the moderator together


def calibrate(
    moderator: Moderator, policy: Policy, labelled: LabelledSet, promise: Promise, *, seed: int = 0, labels: Path,
) -> Policy:  # fmt: skip
    """A new version of `policy` that keeps `promise`, with the evidence inside.

    `labels` is the file that `labelled` was read from. Raises `PromiseRefused` when the labels are too few, when no
    threshold reaches the promise, and when the second part does not keep it; `InvalidFile` for labels of one class or
    unknown to the policy.
    """
    if any(category.action is Action.ALLOW for category in policy.categories):
        raise PromiseRefused(
            f"Policy {policy.id!r} has categories whose action is `allow`: no threshold says what they stop.",
            hint="Give them another action, or leave them out of the policy that is calibrated.",
        )
    gold = labelled.gold(policy)
    harmful = np.array([label != ACCEPTABLE for label in gold])
    if harmful.all() or not harmful.any():
        raise InvalidFile(
            f"Set {labelled.name!r}: every item is {'un' if harmful.all() else ''}acceptable under {policy.id!r}.",
            hint="A threshold parts two classes: label items of both.",
        )
    groups = np.unique(labelled.groups(), return_inverse=True)[1]
    first = split(groups, np.unique(gold, return_inverse=True)[1], seed)
    raw = _judge(moderator, _uncalibrated(moderator, policy), labelled)
    fits = _fits(raw, labelled, harmful, first, promise.prevalence)
    scores = np.array([_score(verdict, fits[one.item.kind]) for verdict, one in zip(raw, labelled.items, strict=True)])
    judged = Judged(harmful, np.zeros(len(gold), bool), scores, groups)
    second = harmful[~first]
    found = choose(promise, judged.where(first), int(second.sum()), int((~second).sum()))
    if isinstance(found, Shortage):
        raise PromiseRefused(_too_few(promise, found, harmful))
    draft = policy.model_copy(
        update={
            "version": policy.version + 1,
            "threshold": found.threshold,
            "calibration": FittedCalibration(
                model=moderator.engine.model_id,
                fits=tuple(Fit(kind=kind, scale=fit.scale, shift=fit.shift) for kind, fit in fits.items()),
            ),
            "evidence": None,
        }
    )
    thresholds = _category_thresholds(promise, draft, raw, judged, gold, first)
    categories = tuple(
        category.model_copy(update={"threshold": thresholds[category.id][0]}) for category in policy.categories
    )
    draft = draft.model_copy(update={"categories": categories})

    held_back = LabelledSet(
        labelled.name, tuple(one for one, fit in zip(labelled.items, first, strict=True) if not fit)
    )
    verdicts = _judge(moderator, draft, held_back)
    after = _decided(verdicts, judged.where(~first))
    before = _decided(_judge(moderator, policy, held_back), judged.where(~first))
    measured = promise.measured(after)
    if not promise.kept_by(measured.value):
        raise PromiseRefused(
            f"The held-back part does not keep {promise}: {_shown(measured)} at the threshold {found.threshold}.",
            hint="By design this happens in at most one split of 20. Label more items and try again.",
        )
    evidence = Evidence(
        promise=str(promise),
        labels=labels.name,
        labels_sha256=hashlib.sha256(labels.read_bytes()).hexdigest(),
        rows=len(gold),
        harmful=int(harmful.sum()),
        acceptable=int((~harmful).sum()),
        left_out=len(labelled.skipped),
        seed=seed,
        threshold=found.threshold,
        chosen_on=int(first.sum()),
        worst_expected=round(found.worst, 6),
        held_back=_figure(measured),
        held_back_before=_figure(promise.measured(before)),
        expected_calibration_error=_figure(calibration_error(after)),
        categories=tuple(
            _category_evidence(promise, id_, *thresholds[id_], verdicts, after, _members(id_, gold, draft)[~first])
            for id_ in thresholds
        ),
        base=policy.hash,
    )
    return draft.model_copy(update={"evidence": evidence})


def _judge(moderator: Moderator, policy: Policy, labelled: LabelledSet) -> list[Verdict]:
    tasks = [Task(one.item, policy.narrowed(None, one.item.kind)) for one in labelled.items]
    return [v for at in range(0, len(tasks), _BLOCK) for v in moderator.judge_many(tasks[at : at + _BLOCK])]


def _uncalibrated(moderator: Moderator, policy: Policy) -> Policy:
    """The policy with scores as the model gives them."""
    as_it_is = tuple(Fit(kind=kind, scale=1.0, shift=0.0) for kind in Kind)
    return policy.model_copy(update={"calibration": FittedCalibration(model=moderator.engine.model_id, fits=as_it_is)})


def _score(verdict: Verdict, fit: Platt) -> float:
    """The calibrated score; NaN for what no threshold would let pass: errors, and texts that were read in part only."""
    if verdict.score is None or verdict.truncated:
        return float("nan")
    if verdict.reason != "model":
        return verdict.score
    return fit(float(log_odds(np.array([verdict.score]))[0]))


def _fits(
    raw: Sequence[Verdict], labelled: LabelledSet, harmful: Bools, first: Bools, prevalence: float | None
) -> dict[Kind, Platt]:
    """Scale and shift per kind of item, on the first part; a kind with few labels shares one with all."""
    usable = np.array([v.score is not None and v.reason == "model" for v in raw]) & first
    scores = np.array([0.5 if v.score is None else v.score for v in raw])
    kinds = np.array([one.item.kind.value for one in labelled.items])
    fits: dict[Kind, Platt] = {}
    for kind in sorted(set(kinds)):
        mine = usable & (kinds == kind)
        if min(int(harmful[mine].sum()), int((~harmful[mine]).sum())) < _ENOUGH:
            mine = usable
        fits[Kind(kind)] = _fit(scores[mine], harmful[mine], prevalence)
    return fits


def _fit(scores: Floats, harmful: Bools, prevalence: float | None) -> Platt:
    try:
        scale, shift = platt(scores, harmful, prevalence)
    except ValueError as cause:
        raise PromiseRefused(
            f"The scores cannot be calibrated on these labels: {cause}.",
            hint="Label more items, of both classes, and check that the labels mean what the policy says.",
        ) from cause
    return Platt(round(scale, 6), round(shift, 6))


def _category_thresholds(
    promise: Promise, draft: Policy, raw: Sequence[Verdict], judged: Judged, gold: Sequence[str], first: Bools
) -> dict[str, tuple[float, str]]:
    """A threshold per category, and a note where it could not be chosen.

    Never below the policy's, so that no category stops more than was promised; above it, where naming the category (its
    own items against the acceptable ones) needs that to keep the promise.
    """
    found: dict[str, tuple[float, str]] = {}
    for category in draft.categories:
        mine = _members(category.id, gold, draft)
        among = mine | ~judged.harmful
        if promise.metric == "recall":
            found[category.id] = draft.threshold, ""
            continue
        scores = np.array(
            [
                score * (v.category_scores.get(category.id, 0.0) / v.score if v.score else 0.0)
                for v, score in zip(raw, judged.score, strict=True)
            ]
        )
        there = replace(judged, score=scores)
        chosen = choose(
            _for_category(promise, mine, judged.harmful), there.where(first & among), int((mine & ~first).sum()),
            int((~judged.harmful & ~first).sum()),
        )  # fmt: skip
        if isinstance(chosen, Choice):
            found[category.id] = max(draft.threshold, chosen.threshold), ""
        else:
            need = f"; {chosen.needed[0]} labels of it would do" if chosen.needed else ""
            note = f"{int(mine.sum())} labels of it are too few for a threshold of its own{need}"
            found[category.id] = draft.threshold, note
    return found


def _for_category(promise: Promise, mine: Bools, harmful: Bools) -> Promise:
    """The promise for one category: of the stated prevalence it has the share that its labels have of the harmful."""
    if promise.prevalence is None or not mine.any():
        return promise
    return replace(promise, prevalence=promise.prevalence * float(mine.sum() / harmful.sum()))


def _members(category: str, gold: Sequence[str], policy: Policy) -> Bools:
    below = {c.id for c in policy.categories if c.id == category or category in policy.ancestors(c)}
    return np.array([label in below for label in gold])


def _category_evidence(
    promise: Promise, category: str, threshold: float, note: str, verdicts: Sequence[Verdict], after: Judged,
    mine: Bools,
) -> CategoryEvidence:  # fmt: skip
    """How the held-back items of a category (`mine`) fared beside the acceptable ones, at the category's threshold."""
    if not mine.any():
        measured = undefined("no held-back item has this label")
    else:
        score = np.array([np.nan if v.score is None else v.category_scores.get(category, 0.0) for v in verdicts])
        # a recall is about what is stopped, whatever it was called; the others about what bears the category's name
        there = after if promise.metric == "recall" else replace(after, score=score).at(threshold)
        measured = _for_category(promise, mine, after.harmful).measured(there.where(mine | ~after.harmful))
    return CategoryEvidence(id=category, threshold=threshold, held_back=_figure(measured), note=note)


def _decided(verdicts: Sequence[Verdict], judged: Judged) -> Judged:
    return Judged(
        judged.harmful,
        np.array([verdict.decision is Decision.ALLOW for verdict in verdicts]),
        np.array([np.nan if verdict.score is None else verdict.score for verdict in verdicts]),
        judged.groups,
    )


def _too_few(promise: Promise, short: Shortage, harmful: Bools) -> str:
    have = f"{int(harmful.sum())} unacceptable and {int((~harmful).sum())} acceptable labels"
    best = "undefined" if short.best is None else f"{short.best:.3f}"
    if short.needed is not None:
        return (
            f"{have} are too few to promise {promise}: at the rates seen, {short.needed[0]} unacceptable and "
            f"{short.needed[1]} acceptable ones would do."
        )
    return (
        f"No threshold of this model and policy reaches {promise}, whatever the number of labels ({have}; the best "
        f"that was seen on the first part is {best})."
    )


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"undefined ({estimate.reason})"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, n = {estimate.n})"


def _figure(estimate: Estimate) -> Figure:
    return Figure.model_validate(estimate.as_json())


def described(policy: Policy) -> list[str]:
    """What was found, in lines for people."""
    evidence = policy.evidence
    if evidence is None:
        return []
    lines = [
        f"promise {evidence.promise}: kept on the held-back half: {_shown_figure(evidence.held_back)}",
        f"  before: {_shown_figure(evidence.held_back_before)}",
        f"threshold {policy.threshold} (lowest expected in another half: {evidence.worst_expected:.3f})",
        f"expected calibration error on the held-back half: {_shown_figure(evidence.expected_calibration_error)}",
        f"labels: {evidence.rows} rows, {evidence.harmful} unacceptable, {evidence.acceptable} acceptable, "
        f"{evidence.left_out} left out",
    ]
    for one in evidence.categories:
        figure = _shown_figure(one.held_back) if one.held_back else ""
        lines.append(f"  {one.id}: threshold {one.threshold}, {figure}{f' [{one.note}]' if one.note else ''}")
    return lines


def _shown_figure(figure: Figure) -> str:
    return _shown(Estimate(**figure.model_dump()))
