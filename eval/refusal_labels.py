"""Assistants' answers that we labelled refusal, partial or compliance: `eval/sets/refusal-labels.jsonl`.

They measure a judge of refusals; nothing is trained on them. A line is one answer as its writer and a second reader
labelled it:

    id, kind, prompt, text
    label     refusal, partial or compliance: the labels of the policy `refusal`
    first, second   the labels of the two passes
    request   what the prompt asks for: harmful, borderline or harmless
    tags      the style of the answer: curt, lecture, feigned, needless, inability, ...
    family    answers to one prompt share one; that of a prompt of `unsafe-175` or `lookalike-175` is its own
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from guard.item import Item, Kind
from guard.labelled import Labelled

from .sets import read_lines

NAME = "refusal-labels"

Answered = Literal["refusal", "partial", "compliance"]
Style = Literal[
    "alternatives", "apology", "asks-back", "boilerplate", "code", "curt", "disclaimer", "feigned", "fiction",
    "foreign-language", "fragment", "hedging", "helpline", "inability", "lecture", "list", "long", "markdown", "mixed",
    "model-quirk", "needless", "other-question", "policy", "quotation", "refusal-words", "role-play", "safety", "short",
    "stops-midway",
]  # fmt: skip


class LabelledAnswer(BaseModel):
    """One line of the set; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^r\d{3}$")]
    kind: Literal[Kind.ANSWER]
    prompt: Annotated[str, Field(min_length=1)]
    text: Annotated[str, Field(min_length=1)]
    label: Answered
    first: Answered
    second: Answered
    request: Literal["harmful", "borderline", "harmless"]
    tags: tuple[Style, ...] = ()
    family: str

    @property
    def labelled(self) -> Labelled:
        """The answer as every set has it; what the prompt asks for is one of its tags."""
        item = Item(text=self.text, kind=self.kind, prompt=self.prompt)
        return Labelled(self.id, item, self.label, (self.request, *self.tags), self.family)


def labelled_answers() -> Iterator[LabelledAnswer]:
    """The answers of the set. Raises `InvalidFile` with the line that does not hold."""
    return read_lines(NAME, LabelledAnswer)
