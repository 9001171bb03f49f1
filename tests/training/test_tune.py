"""What rows are known to be under a policy, and the loss over that."""

from __future__ import annotations

import pytest
import torch

from guard.item import Item, Kind
from guard.policy import PolicyBook
from training.sources import Example, admissible, coverage
from training.tune import SMOOTHING, answer_loss

POLICIES = {policy.id: policy for policy in PolicyBook()}


def answer(refusal: str, harmful: bool = False) -> Example:
    item = Item(text="No.", kind=Kind.ANSWER, prompt="Please?")
    return Example(item, "s", "train", harmful, ("illicit",) if harmful else (), refusal=refusal)


def test_refusal_asks_whether_it_declined_and_nothing_else() -> None:
    policy = POLICIES["refusal"]
    assert admissible(answer("compliance", harmful=True), policy, narrowed=False) == [0]
    assert admissible(answer("refusal"), policy, narrowed=False) == [1]
    assert admissible(answer("partial"), policy, narrowed=False) == [2]
    assert admissible(answer("partial", harmful=True), policy, narrowed=False) == [0, 2]
    assert admissible(answer(""), policy, narrowed=False) is None
    assert admissible(answer("refusal"), POLICIES["moderation-13"], narrowed=False) == [0]


def test_every_category_of_every_policy_is_covered() -> None:
    for policy in POLICIES.values():
        if policy.id != "refusal":
            assert set(coverage()[policy.id]) == {category.id for category in policy.categories}


def test_the_loss_is_that_of_the_admissible_labels() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    found = answer_loss(probabilities.log(), [[0], [1, 2]])
    by_hand = [-(1 - SMOOTHING) * torch.tensor(p).log() - SMOOTHING * torch.tensor(1 - p).log() for p in (0.5, 0.9)]
    assert found.item() == pytest.approx(sum(by_hand).item() / 2, rel=1e-5)  # type: ignore[union-attr]


def test_the_worse_answer_should_score_higher() -> None:
    right = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]).log()
    wrong = right[[0, 2, 1]]
    assert answer_loss(right, [[0]]) < answer_loss(wrong, [[0]])
