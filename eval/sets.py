"""Our own sets: `eval/sets/*.jsonl`, and what their harm areas are under each policy (`areas.yaml`).

A line is one item as its writer and a second reader labelled it:

    id, kind, text, prompt (answers), parent and title (comments, where there is a thread)
    label     acceptable, illegal, hateful or unqualified-advice: a label of the reference policy `self-reflection`
    area      the harm area, finer than the label; `none` for what is acceptable
    first, second   the labels of the two passes, made without sight of each other
    tags      slices that only a reader can tell: look-alike, quotation, leetspeak, role-play, ...
    family    items that were written as counterparts share one

`threads` is a set of its own kind: each family is one comment in two threads, harmful in one of them. Its labels are
those of the policy `forum-comments`, and `direction` says what a thread can do to the reading of the comment alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from guard.errors import InvalidFile
from guard.item import Item, Kind
from guard.labelled import ACCEPTABLE, Labelled, LabelledSet, Words

FOLDER = Path(__file__).with_name("sets")
NAMES = ("standard", "adversarial", "unsafe-175", "lookalike-175")
THREADS = "threads"
REFERENCE = "self-reflection"

Row = TypeVar("Row", bound=BaseModel)

Label = Literal["acceptable", "illegal", "hateful", "unqualified-advice"]
Tag = Literal[
    "look-alike", "quotation", "counter-speech", "identity", "leetspeak", "spacing", "homoglyph", "role-play",
    "jailbreak", "euphemism", "sarcasm", "non-native", "slang", "long", "fiction", "refusal", "late-compliance",
    "professional", "self-directed",
]  # fmt: skip
Direction = Literal["worse", "harmless"]


class Line(BaseModel):
    """One line of a set; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z]\d{3,4}$")]
    kind: Kind
    text: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    parent: str | None = None
    title: str | None = None
    label: Label
    area: str
    first: Label
    second: Label
    tags: tuple[Tag, ...] = ()
    family: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Line:
        if self.label != words()[REFERENCE].get(self.area, ACCEPTABLE):
            raise ValueError(f"area {self.area!r} is not {self.label!r}")
        if (self.kind is Kind.ANSWER) != (self.prompt is not None):
            raise ValueError("an answer has a prompt, and nothing else has one")
        return self

    @property
    def labelled(self) -> Labelled:
        """The item as every set has it."""
        item = Item(text=self.text, kind=self.kind, prompt=self.prompt, parent=self.parent, title=self.title)
        return Labelled(self.id, item, ACCEPTABLE if self.area == "none" else self.area, self.tags, self.family)


class ThreadLine(BaseModel):
    """One line of `threads`: a comment in one of its two threads.

    `direction` is the same for both: `worse` where the comment alone reads as acceptable and a thread makes it harmful,
    `harmless` where it reads as harmful and a thread makes it acceptable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^t\d{3}$")]
    text: Annotated[str, Field(min_length=1)]
    parent: str | None = None
    title: str | None = None
    label: Literal["acceptable", "insult", "hate", "threat", "sexual", "self-harm", "spam"]
    direction: Direction
    family: str
    tags: tuple[Tag, ...] = ()

    @model_validator(mode="after")
    def _has_a_thread(self) -> ThreadLine:
        if not (self.parent or self.title):
            raise ValueError("a comment of this set has a parent or a title")
        return self

    @property
    def labelled(self) -> Labelled:
        """The item as every set has it."""
        item = Item(text=self.text, kind=Kind.COMMENT, parent=self.parent, title=self.title)
        return Labelled(self.id, item, self.label, (self.direction, *self.tags), self.family)


@cache
def words() -> Words:
    """policy id -> harm area -> the policy's label for it."""
    found: Words = yaml.safe_load((FOLDER / "areas.yaml").read_text(encoding="utf-8"))
    return {policy: {ACCEPTABLE: ACCEPTABLE, **areas} for policy, areas in found.items()}


def lines(name: str) -> Iterator[Line]:
    """The lines of one of our sets. Raises `InvalidFile` with the line that does not hold."""
    return read_lines(name, Line)


def read_lines(name: str, row: type[Row]) -> Iterator[Row]:
    """The lines of a file in `eval/sets/`, each as a `row`. Raises `InvalidFile` with the line that does not hold."""
    path = FOLDER / f"{name}.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield row.model_validate(json.loads(line))
        except (ValueError, ValidationError) as cause:
            raise InvalidFile(f"{path.name}, line {number}: {cause}", hint="Mend the line.") from cause


@cache
def own_set(name: str) -> LabelledSet:
    """One of our sets by its name."""
    if name == THREADS:
        return LabelledSet(name, tuple(line.labelled for line in read_lines(THREADS, ThreadLine)))
    return LabelledSet(name, tuple(line.labelled for line in lines(name)), words=words())
