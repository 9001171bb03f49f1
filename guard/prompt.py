"""Template + policy + item → token segments, the stable part first so that the engine can keep it.

    [ policy: chat opening, instruction, categories ][ content: context, text ][ question, chat closing ] → label

The policy segment depends on template and policy alone. The text of the item (and of its thread) is encoded without
control tokens, and the template's delimiters and every chat format's are broken up in it: it cannot leave its quotes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from guard.errors import InvalidPolicy
from guard.item import Item, Kind
from guard.policy import Category, Policy
from guard.resources import shipped
from guard.tokenizer import Tokenizer, defuse
from guard.yamlfile import load_yaml

Ids = tuple[int, ...]


class Block(BaseModel):
    """How one field of an item is shown: the literal text before and after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Annotated[str, Field(pattern="^(text|prompt|parent|title)$")]
    before: str
    after: str


class Template(BaseModel):
    """The wording of the self-reflection question for one kind of item (`prompts/templates/<kind>.yaml`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Kind
    version: Annotated[int, Field(ge=1)]
    policy: str
    category: str
    exceptions: str
    examples: str
    fields: Annotated[tuple[Block, ...], Field(min_length=1)]
    question: str

    @field_validator("fields")
    @classmethod
    def _text_is_last(cls, value: tuple[Block, ...]) -> tuple[Block, ...]:
        if value[-1].field != "text" or len({block.field for block in value}) != len(value):
            raise ValueError("the last field is `text`, and no field stands twice")
        # a mark of one character could not be broken up in the text between the marks
        marks = [((b.before.split() or [""])[-1], (b.after.split() or [""])[0]) for b in value]
        if any(len(mark) < 2 for pair in marks for mark in pair):
            raise ValueError("a field stands between marks of at least two characters, such as <<< and >>>")
        return value

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the wording."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @cached_property
    def delimiters(self) -> tuple[str, ...]:
        """The marks around texts, such as `<<<`: the last word before a field and the first one after it."""
        marks = [block.before.split()[-1] for block in self.fields] + [block.after.split()[0] for block in self.fields]
        return tuple(dict.fromkeys(marks))

    def policy_text(self, policy: Policy) -> str:
        """The policy in the words that the model reads."""
        lines = "\n".join(self._category_text(category) for category in policy.categories)
        return _substitute(self.policy, categories=lines, acceptable=policy.acceptable)

    def _category_text(self, category: Category) -> str:
        text = _substitute(self.category, name=category.name, description=category.description)
        for wording, values in ((self.exceptions, category.exceptions), (self.examples, category.examples)):
            text += "".join(_substitute(wording, text=value) for value in values)
        return text


def load_template(kind: Kind, folder: Path | None = None) -> Template:
    """The template of a kind. Raises `InvalidPolicy` with file and line."""
    path = (folder or shipped("prompts") / "templates") / f"{kind.value}.yaml"
    return load_yaml(path, Template, InvalidPolicy)


@dataclass(frozen=True)
class Content:
    """An item's rendered content: the ids around its text, and the text itself, ready to be cut and encoded."""

    before: Ids  # context and the opening quote
    text: str  # defused
    after: Ids  # the closing quote
    context_cut: bool  # did the context (parent, title, prompt) exceed its room?

    def place(self, source: str, at: int) -> int:
        """Where in the `source`, the text before it was defused, a character of this text stands."""
        if self.text == source:
            return at
        place = 0
        for letter in self.text[:at]:  # what is added are spaces
            place += place < len(source) and source[place] == letter
        return place


class Prompt:
    """One template, one policy and one tokenizer: what does not change from item to item, encoded once."""

    def __init__(self, template: Template, policy: Policy, tokenizer: Tokenizer, context_tokens: int = 128) -> None:
        self.policy, self.template = policy, template
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self._literals = (*tokenizer.literals, *template.delimiters)
        opening, closing = tokenizer.frame()
        self.prefix: Ids = (*opening, *tokenizer.encode(template.policy_text(policy) + "\n"))
        self.question: Ids = (*tokenizer.encode(_substitute(template.question, acceptable=policy.acceptable)), *closing)
        names = (policy.acceptable, *(category.name for category in policy.categories))
        self.labels: tuple[Ids, ...] = tuple(tuple(tokenizer.encode(name)) for name in names)
        self.terminator = tokenizer.terminator
        twice = [n for n, ids in zip(names, self.labels, strict=True) if not ids or self.labels.count(ids) > 1]
        if twice:
            raise InvalidPolicy(
                f"Policy {policy.id!r}: label {twice[0]!r} is not distinct in this model's tokens.",
                hint="Give the category another `name`.",
            )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the frame as this model reads it: template, policy text, chat format and labels."""
        read = [self.template.hash, self.prefix, self.question, self.labels]
        return hashlib.sha256(json.dumps(read).encode()).hexdigest()

    def content(self, item: Item) -> Content:
        """Render the item's fields. Context longer than its room keeps its beginning; the text is left whole."""
        before: list[int] = []
        literal, cut = "", False
        for block in self.template.fields:
            value = getattr(item, block.field)
            if value is None:
                continue
            before += self._tokenizer.encode(literal + block.before)
            literal = block.after
            if block.field != "text":
                # no more characters than could fill the room are looked at: a context of 1 MB costs nothing
                shown = value[: self._context_tokens * 16]
                ids = self._tokenizer.encode(defuse(shown, self._literals))
                before += ids[: self._context_tokens]
                cut |= len(ids) > self._context_tokens or len(shown) < len(value)
        text = defuse(item.text, self._literals)
        return Content(tuple(before), text, tuple(self._tokenizer.encode(literal)), cut)

    def encode(self, text: str) -> list[int]:
        """Ids of (a passage of) a text that `content` has defused."""
        return self._tokenizer.encode(text)


_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


def _substitute(wording: str, **values: str) -> str:
    """Fill `{name}` in one pass; what is put in is never looked at again. Raises `InvalidPolicy`.

    >>> _substitute("{name}: {text}", name="hate", text="{name}")
    'hate: {name}'
    """
    unknown = set(_PLACEHOLDER.findall(wording)) - values.keys()
    if unknown:
        raise InvalidPolicy(
            f"A template uses {{{unknown.pop()}}}, which is not known there.", hint="Mend the template."
        )
    return _PLACEHOLDER.sub(lambda match: values[match[1]], wording)
