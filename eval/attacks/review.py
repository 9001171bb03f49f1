"""The review: of each attack twenty outputs, read to see whether a human reader still gets the meaning.

A line of `reviewed.jsonl`: `attack`, `id` (set and item), `text` as attacked, `kept` and, in a word or two, `why`. An
attack that is changed makes other outputs; `python -m eval attacks --review NAME` prints them for the next reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from guard.labelled import LabelledSet
from guard.policy import PolicyBook

from ..sets import REFERENCE, own_set
from .attack import Attack
from .sample import sample, under

FILE = Path(__file__).with_name("reviewed.jsonl")
SETS = ("standard", "adversarial")
OUTPUTS = 20  # half of them of harmful items
KEPT = 19  # at least


def outputs(attack: Attack) -> dict[str, str]:
    """id -> text, of the items that the review is made on."""
    return {one.id: one.item.text for one in under(attack, _items()).items}


def reviewed() -> Iterator[dict[str, Any]]:
    """The lines of the review."""
    return map(json.loads, FILE.read_text(encoding="utf-8").splitlines())


@cache
def _items() -> LabelledSet:
    """The first ones of the default sample, of either class."""
    return sample([own_set(name) for name in SETS], PolicyBook().get(REFERENCE), OUTPUTS // 2)
