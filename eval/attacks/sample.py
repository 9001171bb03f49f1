"""The items that attacks are tried on: as many harmful ones as safe ones, untouched and under each attack.

Which items are drawn depends on the seed and on each item's id alone: a smaller sample is the beginning of a larger
one, and an item that is added to a set moves no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from guard.errors import InvalidFile
from guard.item import Item
from guard.labelled import ACCEPTABLE, Labelled, LabelledSet
from guard.policy import Policy

from ..predict import in_scope
from .attack import SEED, Attack

UNTOUCHED = "untouched"
PER_CLASS = 200  # with 25 attacks some 10,000 texts: 6 minutes at 30 a second


def sample(sets: Sequence[LabelledSet], policy: Policy, per_class: int = PER_CLASS, seed: int = SEED) -> LabelledSet:
    """At most `per_class` harmful and `per_class` acceptable items of the sets, those that the policy speaks about.

    An item's id is its set's name and its own; its label is the policy's. Raises `InvalidFile` where no harmful item
    is among them, or a set's labels mean nothing under the policy.
    """
    drawn: list[Labelled] = []
    pool = [
        Labelled(f"{labelled.name}/{one.id}", one.item, gold, one.tags, f"{labelled.name}/{group}")
        for labelled in sets
        for one, gold, group in zip(labelled.items, labelled.gold(policy), labelled.groups(), strict=True)
        if in_scope(one.item.kind, policy)
    ]
    pool.sort(key=lambda one: Random(f"{seed} {one.id}").random())
    for harmful in (True, False):
        drawn += [one for one in pool if (one.label != ACCEPTABLE) is harmful][:per_class]
    if not any(one.label != ACCEPTABLE for one in drawn):
        raise InvalidFile(
            "No harmful item is in these sets, so none can be missed.",
            hint="Name a set that holds harmful items of a kind that the policy judges.",
        )
    return LabelledSet(UNTOUCHED, tuple(drawn))


def under(attack: Attack, untouched: LabelledSet, seed: int = SEED) -> LabelledSet:
    """The same items with their texts attacked, under the attack's name; what stands around a text stays as it is."""
    return LabelledSet(
        attack.name,
        tuple(
            one._replace(item=Item(**{**one.item.model_dump(), "text": attack.on(one.item.text, one.id, seed)}))
            for one in untouched.items
        ),
    )
