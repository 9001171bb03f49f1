"""Labelled items: a file of texts with what people said about them, and what that means under a policy.

The one rule: nothing is lost and nothing is guessed. A row that cannot be read is counted with its reason; a label that
the policy does not know, or two labels for one id, refuse the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from guard.errors import GuardError, InvalidFile
from guard.item import Item, Kind
from guard.policy import Policy
from guard.scan.readers import Row, open_reader

ACCEPTABLE, UNACCEPTABLE = "acceptable", "unacceptable"
_TRUE, _FALSE = {"1", "true", "yes", "harmful", UNACCEPTABLE}, {"0", "false", "no", ACCEPTABLE}
_SHOWN = 5


class Labelled(NamedTuple):
    """An item with its gold label.

    `label` is `acceptable`, `unacceptable` (harmful, nobody said how), or a category in the words of the set. `tags`
    are slices that it belongs to, `group` the family of items that were written together.
    """

    id: str
    item: Item
    label: str
    tags: tuple[str, ...] = ()
    group: str | None = None

    @property
    def text_hash(self) -> str:
        """SHA-256 over all that is judged: kind, text and context."""
        return _sha256(self.item.model_dump(mode="json"))


class Skipped(NamedTuple):
    """A row of a file that is not in the set, and why."""

    row: int
    reason: str


Words = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class LabelledSet:
    """Labelled items under one name. `words` translates the set's labels: policy id -> label -> the policy's label.

    Raises `InvalidFile` when no item is in it or an id stands twice.
    """

    name: str
    items: tuple[Labelled, ...]
    skipped: tuple[Skipped, ...] = ()
    words: Words = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.items:
            why = f" {self.skipped[0].reason}" if self.skipped else ""
            raise InvalidFile(f"Set {self.name!r} holds no item that can be judged.{why}", hint="Check the file.")
        twice = [id_ for id_, times in Counter(one.id for one in self.items).items() if times > 1]
        if twice:
            raise InvalidFile(
                f"Set {self.name!r}: {len(twice)} ids stand more than once: {_listed(twice)}.",
                hint="Give each row its own id, or name no id column: the row numbers are taken then.",
            )

    @cached_property
    def hash(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        return _sha256([[one.id, one.text_hash, one.label, one.group, list(one.tags)] for one in self.items])

    def gold(self, policy: Policy) -> list[str]:
        """The gold label of each item under `policy`: a category's id, `acceptable` or `unacceptable`.

        Under a policy that the set has words for, those decide; else the policy must know the labels itself. Raises
        `InvalidFile` with the labels that nobody can place.
        """
        words = self.words.get(policy.id)
        known = {category.id for category in policy.categories} | {ACCEPTABLE, UNACCEPTABLE}
        if words is None:
            words = {policy.acceptable: ACCEPTABLE}
            if self.words:  # the set's own labels are not this policy's: harmful is all that is known
                words |= {one.label: UNACCEPTABLE for one in self.items if one.label not in known}
        found = [words.get(one.label, one.label) for one in self.items]
        strange = Counter(label for label in found if label not in known)
        if strange:
            names = _listed(label for label, _ in strange.most_common())
            raise InvalidFile(
                f"Set {self.name!r}: policy {policy.id!r} knows no label {names} ({sum(strange.values())} items).",
                hint=f"Its labels: {', '.join(sorted(known))}.",
            )
        return found

    def groups(self) -> list[str]:
        """A name per item, the same for those that stand or fall together: a family, or the same text."""
        by_text: dict[str, str] = {}
        return [by_text.setdefault(one.text_hash, one.group or f"\0{one.id}") for one in self.items]


class Columns(NamedTuple):
    """Names of the columns of a file of labelled texts; those but `text` and `label` may be missing."""

    text: str = "text"
    label: str = "label"
    id: str | None = None
    kind: str = "kind"
    prompt: str = "prompt"
    parent: str = "parent"
    title: str = "title"
    group: str = "group"
    tags: str = "tags"


def read_labelled(path: Path, columns: Columns = Columns(), *, kind: Kind | None = None) -> LabelledSet:
    """Read a CSV, TSV, JSONL or Parquet file of labelled texts.

    A label is `acceptable`, `unacceptable`, a category, or says yes or no to harm (`1`, `true`; `0`, `false`).
    A row's kind is its own, else `kind`, else `answer` where it has a prompt, `comment` where it has a thread, and
    `prompt`. Raises `InvalidFile`.
    """
    items: list[Labelled] = []
    skipped: list[Skipped] = []
    more = tuple(name for name in columns[3:] if name) + (columns.label,)
    reader = open_reader(path, columns.text, columns.id, more)
    reader.check()
    if columns.label not in reader.columns:
        raise InvalidFile(
            f"{path}: there is no column {columns.label!r}.",
            hint=f"The columns are: {', '.join(map(repr, reader.columns)) or 'none'}.",
        )
    for row in reader:
        try:
            if row.error is not None:
                raise row.error
            items.append(_labelled(row, columns, kind))
        except (GuardError, ValueError) as problem:
            message = problem.message if isinstance(problem, GuardError) else str(problem)
            skipped.append(Skipped(row.number, message))
    return LabelledSet(path.name, tuple(items), tuple(skipped))


def plain_label(value: Any) -> str:
    """A label as the sets spell it. Raises `ValueError` for none.

    >>> plain_label(1), plain_label(" False "), plain_label("hate"), plain_label(0.0)
    ('unacceptable', 'acceptable', 'hate', 'acceptable')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    if not text:
        raise ValueError("it has no label")
    if text.casefold() in _TRUE:
        return UNACCEPTABLE
    return ACCEPTABLE if text.casefold() in _FALSE else text


def _labelled(row: Row, columns: Columns, kind: Kind | None) -> Labelled:
    cells = {name: row.more[column] for name, column in columns._asdict().items() if column in row.more}
    context = {name: str(cells[name]) for name in ("prompt", "parent", "title") if cells.get(name)}
    own = cells.get("kind") or kind or _kind_of(context)
    if own != Kind.ANSWER:
        context.pop("prompt", None)
    if own != Kind.COMMENT:
        context.pop("parent", None), context.pop("title", None)
    item = Item.model_validate({"text": row.text, "kind": own, **context})
    tags = cells.get("tags") or ()
    if isinstance(tags, str):
        tags = tags.replace(",", ";").split(";")
    group = cells.get("group")
    return Labelled(
        row.id, item, plain_label(cells.get("label")), tuple(str(tag).strip() for tag in tags if str(tag).strip()),
        None if group in (None, "") else str(group),
    )  # fmt: skip


def _kind_of(context: Mapping[str, str]) -> Kind:
    if "prompt" in context:
        return Kind.ANSWER
    return Kind.COMMENT if context else Kind.PROMPT


def conflicts(labelled: Sequence[Labelled]) -> list[str]:
    """Ids of items whose very text stands elsewhere in the set with another label."""
    by_text: dict[str, set[str]] = {}
    for one in labelled:
        by_text.setdefault(one.text_hash, set()).add(one.label)
    return [one.id for one in labelled if len(by_text[one.text_hash]) > 1]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
