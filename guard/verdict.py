"""The verdict: what was decided, why, and by which policy, prompt and model."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from guard.errors import GuardError
from guard.policy import Action, Policy


class Decision(StrEnum):
    """`allow` lets the item pass; `error` means that nobody judged it, and is never an `allow`."""

    ALLOW = "allow"
    FLAG = "flag"
    REVIEW = "review"
    BLOCK = "block"
    ERROR = "error"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Passage(_Data):
    """The part of the item's text that decided: its number (from 0), its beginning as it was read, and where it stands
    in the text that was sent: characters `start` to `end`."""

    index: int
    excerpt: str
    start: int
    end: int


class Failure(_Data):
    """Why there is no verdict: a stable code, what was wrong, what to do."""

    code: str
    message: str
    hint: str = ""


class Verdict(_Data):
    """One item, judged under one policy. Frozen; `model_dump(mode="json")` is its serial form.

    `score` is the calibrated probability that the item is not acceptable under the policy, `category_scores` the
    calibrated probability of each category, a parent's holding its children's; of an item in several passages, each is
    that of the passage where it is highest. `categories` are those over their thresholds, else, when the overall score
    alone is over the policy's, the likeliest. `passage` is the one that decided: the one with the strictest decision,
    the likeliest among equals. `reason` says what decided: `model`, an allow or deny rule (`rule: ...`), or `truncated`
    (nothing found, but not everything was read). `uncalibrated` are the categories that the model was not trained for
    and nobody calibrated: their scores are the model's guess.
    """

    decision: Decision
    score: float | None = None
    category_scores: dict[str, float] = {}
    categories: tuple[str, ...] = ()
    reason: str = "model"
    policy: str
    policy_version: int
    policy_hash: str
    prompt_hash: str | None = None
    model: str
    passages: int = 0
    passage: Passage | None = None
    truncated: bool = False
    unsupported_language: bool = False
    uncalibrated: tuple[str, ...] = ()
    error: Failure | None = None

    @model_validator(mode="after")
    def _error_is_no_verdict(self) -> Self:
        if (self.decision is Decision.ERROR) != (self.error is not None):
            raise ValueError("a verdict has an error if and only if its decision is `error`")
        return self

    @property
    def accepted(self) -> bool:
        """May the item pass? False for an error."""
        return self.decision is Decision.ALLOW


def failure(error: GuardError) -> Failure:
    """The serial form of an error."""
    return Failure(code=error.code, message=error.message, hint=error.hint)


STRICTNESS: tuple[str, ...] = (Action.ALLOW, Action.FLAG, Action.REVIEW, Action.BLOCK)  # mildest first


def decide(policy: Policy, score: float, own: dict[str, float]) -> tuple[Decision, dict[str, float], tuple[str, ...]]:
    """Decision, category scores and categories named, from the calibrated probabilities of one passage.

    `own` holds each category's own label probability; they and P(acceptable) sum to one, so `score` is their sum.
    A category whose action is `allow` is named but never stops an item, so it counts neither towards the overall
    threshold nor towards a parent that would stop the item.

    With the threshold 0.5 for all: hate .3, hate/threatening .3 (its child), spam .2 -> score .8; hate holds .6 and is
    named; the decision is hate's action.
    """
    totals = dict(own)
    action_of = {c.id: c.action for c in policy.categories}
    for category in policy.categories:
        for ancestor in policy.ancestors(category):
            if category.action is not Action.ALLOW or action_of[ancestor] is Action.ALLOW:
                totals[ancestor] += own[category.id]
    totals = {name: min(value, 1.0) for name, value in totals.items()}
    named = [c for c in policy.categories if totals[c.id] >= c.threshold]
    enforced = [c for c in policy.categories if c.action is not Action.ALLOW]
    stopping = score - sum(own[c.id] for c in policy.categories if c.action is Action.ALLOW)
    if enforced and stopping >= policy.threshold and not any(c in enforced for c in named):
        named.append(max(enforced, key=lambda c: own[c.id]))
    action = max((c.action for c in named), key=STRICTNESS.index, default=Action.ALLOW)
    return Decision(action.value), totals, tuple(c.id for c in named)
