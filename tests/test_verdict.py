"""Deciding, by hand-countable tables; and what a verdict never is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guard.errors import EngineError
from guard.policy import Action, Policy
from guard.verdict import STRICTNESS, Decision, Failure, Passage, Verdict, decide, failure
from tests.builders import category, policy

FAMILY = policy(
    category("hate", action="block"),
    category("hate/threat", parent="hate", action="review"),
    category("spam"),
)
ALLOWED = policy(
    category("hate", action="block"), category("satire", action="allow"), category("spam", action="review")
)


def decided(of: Policy, *own: float) -> tuple[str, dict[str, float], tuple[str, ...]]:
    ids = [c.id for c in of.categories]
    decision, totals, named = decide(of, sum(own), dict(zip(ids, own, strict=True)))
    return decision.value, {name: round(value, 9) for name, value in totals.items()}, named


@pytest.mark.parametrize(
    ("own", "decision", "named"),
    [
        ((0.0, 0.0, 0.0), "allow", ()),
        ((0.1, 0.1, 0.2), "allow", ()),
        ((0.5, 0.0, 0.0), "block", ("hate",)),  # exactly at the threshold
        ((0.4999999, 0.0, 0.0), "allow", ()),
        ((0.25, 0.25, 0.0), "block", ("hate",)),  # the parent holds its child
        ((0.3, 0.3, 0.2), "block", ("hate",)),
        ((0.0, 0.6, 0.0), "block", ("hate", "hate/threat")),
        ((0.0, 0.0, 0.5), "flag", ("spam",)),
        ((0.0, 0.3, 0.4), "flag", ("spam",)),  # the overall score alone: the likeliest is named
        ((0.2, 0.2, 0.3), "flag", ("spam",)),
        ((0.24, 0.25, 0.01), "review", ("hate/threat",)),  # the likeliest by its own label
        ((1.0, 0.0, 0.0), "block", ("hate",)),
    ],
)
def test_a_family_of_categories(own: tuple[float, ...], decision: str, named: tuple[str, ...]):
    found, totals, names = decided(FAMILY, *own)
    assert (found, names) == (decision, named)
    assert totals == {
        "hate": pytest.approx(own[0] + own[1]),
        "hate/threat": pytest.approx(own[1]),
        "spam": pytest.approx(own[2]),
    }


def test_the_example_of_the_docstring():
    of = policy(category("hate", action="block"), category("hate/threatening", parent="hate"), category("spam"))
    assert decided(of, 0.3, 0.3, 0.2) == ("block", {"hate": 0.6, "hate/threatening": 0.3, "spam": 0.2}, ("hate",))


def test_grandchildren_count_for_all_above_them():
    of = policy(category("a"), category("b", parent="a"), category("c", parent="b"))
    assert decided(of, 0.1, 0.2, 0.3) == ("flag", {"a": 0.6, "b": 0.5, "c": 0.3}, ("a", "b"))


@pytest.mark.parametrize(
    ("own", "decision", "named"),
    [
        ((0.0, 0.9, 0.0), "allow", ("satire",)),  # named, and passes
        ((0.0, 0.5, 0.49), "allow", ("satire",)),
        ((0.375, 0.25, 0.125), "block", ("hate",)),  # .5 without satire: the likeliest that stops is named
        ((0.1875, 0.25, 0.3125), "review", ("spam",)),
        ((0.2, 0.5, 0.29), "allow", ("satire",)),
        ((0.5, 0.5, 0.0), "block", ("hate", "satire")),
        ((0.0, 0.4, 0.0), "allow", ()),
    ],
)
def test_a_category_that_is_allowed_is_named_and_stops_nothing(
    own: tuple[float, ...], decision: str, named: tuple[str, ...]
):
    found, _, names = decided(ALLOWED, *own)
    assert (found, names) == (decision, named)


def test_an_allowed_child_does_not_stop_an_item_through_its_parent():
    """It did: its probability was counted towards the parent's threshold."""
    of = policy(category("sexual", action="block"), category("sexual/education", parent="sexual", action="allow"))
    assert decided(of, 0.1, 0.8) == ("allow", {"sexual": 0.1, "sexual/education": 0.8}, ("sexual/education",))
    assert decided(of, 0.5, 0.4)[0] == "block"
    below = policy(category("fiction", action="allow"), category("fiction/gore", parent="fiction", action="block"))
    assert decided(below, 0.1, 0.6) == ("block", {"fiction": 0.7, "fiction/gore": 0.6}, ("fiction", "fiction/gore"))
    both = policy(category("a", action="allow"), category("b", parent="a", action="allow"))
    assert decided(both, 0.4, 0.5) == ("allow", {"a": 0.9, "b": 0.5}, ("a", "b"))


def test_thresholds_of_their_own():
    of = policy(category("a", threshold=0.1), category("b", threshold=0.9), threshold=0.8)
    assert decided(of, 0.1, 0.0)[::2] == ("flag", ("a",))
    assert decided(of, 0.0, 0.79)[::2] == ("allow", ())
    assert decided(of, 0.0, 0.8)[::2] == ("flag", ("b",))
    assert decided(of, 0.05, 0.9)[::2] == ("flag", ("b",))


def test_the_strictest_action_of_those_named_decides():
    actions = ("flag", "block", "review", "allow")
    of = policy(*(category(a, action=a, threshold=0.2) for a in actions))
    assert decided(of, 0.25, 0.25, 0.25, 0.25)[::2] == ("block", actions)
    assert decided(of, 0.3, 0.1, 0.3, 0.3)[::2] == ("review", ("flag", "review", "allow"))
    assert decided(of, 0.3, 0.1, 0.1, 0.3)[::2] == ("flag", ("flag", "allow"))
    assert STRICTNESS == ("allow", "flag", "review", "block") == tuple(Action)


def test_a_policy_that_allows_everything_allows():
    of = policy(category("a", action="allow"), category("b", action="allow"))
    assert decided(of, 0.5, 0.5)[::2] == ("allow", ("a", "b"))
    assert decide(of, 0.9, {"a": 0.1, "b": 0.1})[0] is Decision.ALLOW  # figures that do not add up


def test_sums_that_round_above_one_are_one():
    of = policy(category("a"), *(category(f"a{i}", parent="a") for i in range(10)))
    assert decide(of, 1.0, {c.id: 1 / 11 for c in of.categories})[1]["a"] <= 1.0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_an_item_passes_if_and_only_if_nothing_that_stops_is_over_a_threshold(data: st.DataObject):
    names = [f"c{i}" for i in range(data.draw(st.integers(1, 5)))]
    levels = st.floats(0.05, 0.95)
    of = policy(
        *(
            category(
                name,
                parent=data.draw(st.sampled_from([None, *names[:i]])),
                threshold=data.draw(levels),
                action=data.draw(st.sampled_from(list(Action))),
            )
            for i, name in enumerate(names)
        ),
        threshold=data.draw(levels),
    )
    weights = [data.draw(st.integers(0, 100)) for _ in range(len(names) + 1)]
    weights[0] += 1
    own = {name: w / sum(weights) for name, w in zip(names, weights[1:], strict=True)}
    decision, totals, named = decide(of, sum(own.values()), own)
    stops = {c.id for c in of.categories if c.action is not Action.ALLOW}
    over = {c.id for c in of.categories if totals[c.id] >= c.threshold}
    overall = sum(own.values()) - sum(own[n] for n in own if n not in stops)
    assert (decision is Decision.ALLOW) == (not (stops & over) and not (stops and overall >= of.threshold))
    assert over <= set(named) and len(set(named) - over) <= 1
    assert list(named) == sorted(named) or not (stops & over)
    assert all(own[n] - 1e-12 <= totals[n] <= 1 for n in names)
    assert decision is not Decision.ERROR


# ---------------------------------------------------------------------------------------------------------------------
# The record

BASE: dict[str, Any] = {"policy": "p", "policy_version": 1, "policy_hash": "0" * 64, "model": "m"}


def test_a_verdict_has_an_error_if_and_only_if_its_decision_is_error():
    broken = Failure(code="engine_error", message="m")
    assert Verdict(decision="error", error=broken, **BASE).accepted is False
    for decision in ("allow", "flag", "review", "block"):
        assert Verdict(decision=decision, **BASE).accepted is (decision == "allow")
        with pytest.raises(ValidationError, match="if and only if"):
            Verdict(decision=decision, error=broken, **BASE)
    with pytest.raises(ValidationError, match="if and only if"):
        Verdict(decision="error", **BASE)


def test_a_verdict_is_frozen_and_knows_its_fields():
    verdict = Verdict(decision="block", passage=Passage(index=0, excerpt="a", start=0, end=1), **BASE)
    for change in (
        lambda: setattr(verdict, "decision", Decision.ALLOW),
        lambda: setattr(verdict.passage, "index", 1),
        lambda: delattr(verdict, "decision"),
    ):
        with pytest.raises(ValidationError):
            change()
    with pytest.raises(ValidationError):
        Verdict(decision="allow", safe=True, **BASE)
    for field in BASE:
        with pytest.raises(ValidationError):
            Verdict(decision="allow", **{k: v for k, v in BASE.items() if k != field})
    with pytest.raises(ValidationError):
        Verdict(decision="maybe", **BASE)


def test_two_verdicts_share_nothing():
    one, other = Verdict(decision="allow", **BASE), Verdict(decision="allow", **BASE)
    one.category_scores["a"] = 1.0
    assert other.category_scores == {}


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(decision="allow", **BASE),
        Verdict(
            decision="block",
            score=0.1 + 0.2,
            category_scores={"a/b": 1e-17, "c": 1.0},
            categories=("c", "a/b"),
            reason="rule: <b>\0\u2028",
            prompt_hash="1" * 64,
            passages=3,
            passage=Passage(index=2, excerpt='"\\\n😀', start=7, end=10),
            truncated=True,
            unsupported_language=True,
            **BASE,
        ),
        Verdict(decision="error", reason="error", error=failure(EngineError("m", hint="h")), **BASE),
    ],
)
def test_a_verdict_survives_json(verdict: Verdict):
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    data = verdict.model_dump(mode="json")
    assert Verdict.model_validate(json.loads(json.dumps(data))) == verdict
    assert data["decision"] in {"allow", "flag", "review", "block", "error"}


def test_decisions_are_the_actions_and_error():
    assert [d.value for d in Decision] == [*(a.value for a in Action), "error"]
