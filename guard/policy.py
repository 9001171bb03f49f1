"""Policies: what an operator does not accept, in YAML, validated and hashed.

A policy is data. It says which categories there are, in the words that the model reads, from which score on each
counts, and what then happens. Its hash is taken over everything that can change a verdict, so a verdict can name
exactly what it was decided by.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import re2
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from guard.errors import InvalidPolicy, UnknownPolicy
from guard.item import Kind
from guard.resources import shipped
from guard.yamlfile import load_yaml

CategoryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_/.-]*$", max_length=64)]
Probability = Annotated[float, Field(gt=0, lt=1)]
_LEAST, _MOST = math.nextafter(0, 1), math.nextafter(1, 0)  # thresholds that all but a certain score keeps
Words = Annotated[str, Field(min_length=1)]
Kinds = Annotated[tuple[Kind, ...], Field(min_length=1)]
ALL_KINDS = (Kind.PROMPT, Kind.ANSWER, Kind.COMMENT)  # those that people or assistants write; see `injection.yaml`


class Action(StrEnum):
    """What happens to an item that is in a category; `allow` names the category and lets the item pass."""

    ALLOW = "allow"
    FLAG = "flag"
    REVIEW = "review"
    BLOCK = "block"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy without what was computed from the original, such as `Policy.hash`."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Category(_Data):
    """One thing that the operator does not accept. `name` is the label that the model answers with; default: the id."""

    id: CategoryId
    name: Annotated[str, Field(min_length=1, max_length=64)] = ""
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    parent: CategoryId | None = None
    examples: tuple[Words, ...] = ()
    exceptions: tuple[Words, ...] = ()
    threshold: Probability = 0.5
    action: Action = Action.FLAG
    kinds: Kinds = ALL_KINDS

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_id(cls, data: Any) -> Any:
        return {"name": data.get("id", ""), **data} if isinstance(data, dict) else data

    @cached_property
    def meaning(self) -> str:
        """What the model is told about the category, in one line: `name: description`, exceptions and examples."""
        return f"{self.name}: {'; '.join((self.description, *self.exceptions, *self.examples))}"


class Rule(_Data):
    """A term or a regular expression of an allow or deny list, with the reason that the verdict gives.

    A term matches whole words, whatever their case, their width and the white space between them; a pattern is an RE2
    expression (linear time, so a hostile text cannot make it hang). A deny rule matches anywhere in the text; an allow
    rule must match all of it, else a permitted word would carry anything past the judge.
    """

    term: Words | None = None
    pattern: Words | None = None
    reason: Words
    category: CategoryId | None = None
    action: Action | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.term is None) == (self.pattern is None):
            raise ValueError("give either `term` or `pattern`")
        if self.term is not None and not folded(self.term):
            raise ValueError("the term is blank")
        return self

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _compile(value)
        return value

    @cached_property
    def _expression(self) -> Any:
        if self.pattern is not None:
            return _compile(self.pattern)
        # (?:^|\W) and not \b: a term may begin or end with a character that is no letter, such as "c++"
        return _compile(rf"(?i)(?:^|[^\pL\pN_])({re2.escape(folded(self.term or ''))})(?:$|[^\pL\pN_])")

    def found_in(self, text: str, as_folded: str | None = None) -> bool:
        """Does the rule match somewhere in the text? `as_folded` is `folded(text)`, for whoever has it already."""
        if self.pattern is None:
            text = folded(text) if as_folded is None else as_folded
        return self._expression.search(text) is not None

    def span_in(self, text: str) -> tuple[int, int] | None:
        """Where in the text the rule first matches; of a term, the words that hold it. None where that is nowhere."""
        if self.pattern is not None:
            found = self._expression.search(text)
            return found.span() if found else None
        words = [match.span() for match in re.finditer(r"\S+", text)]
        for first, last in zip(words, words[len(folded(self.term or "").split()) - 1 :], strict=False):
            if self.found_in(text[first[0] : last[1]]):
                return first[0], last[1]
        return None

    def covers(self, text: str, as_folded: str | None = None) -> bool:
        """Does the rule match the whole text, white space around it aside?"""
        if self.pattern is None:
            return folded(self.term or "") == (folded(text) if as_folded is None else as_folded)
        return self._expression.fullmatch(text.strip()) is not None


class PolicyTest(_Data):
    """A case that `guard policy test` judges: the decision and, where given, a category that must be named."""

    text: str
    kind: Kind | None = None
    prompt: str | None = None
    parent: str | None = None
    title: str | None = None
    expect: Literal["accepted", "allow", "flag", "review", "block"]  # accepted: any decision that lets it pass
    category: CategoryId | None = None


class Fit(_Data):
    """Scale and shift of the log-odds for one kind of item (`guard/calibration.py`)."""

    kind: Kind
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    shift: Annotated[float, Field(allow_inf_nan=False)]


class FittedCalibration(_Data):
    """What `guard calibrate` fitted, and for which model: with another one the thresholds would mean something else."""

    model: str
    fits: tuple[Fit, ...] = ()


class Figure(_Data):
    """A measured figure with its 95 % interval and the number of items that it rests on."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None


class CategoryEvidence(_Data):
    """How a category's threshold was found: `chosen` with the figure on the held-back part, or why it was not."""

    id: CategoryId
    threshold: Probability
    held_back: Figure | None = None
    note: str = ""


class Evidence(_Data):
    """What a promise rests on. It changes no verdict, so it is not part of the policy's hash."""

    promise: str
    labels: str
    labels_sha256: str
    rows: int
    harmful: int
    acceptable: int
    left_out: int
    seed: int
    threshold: Probability
    chosen_on: int
    worst_expected: float
    held_back: Figure
    held_back_before: Figure
    expected_calibration_error: Figure
    categories: tuple[CategoryEvidence, ...] = ()
    base: str


class Policy(_Data):
    """A validated policy file. `acceptable` is the label of everything that is in no category.

    `threshold` is on the overall score, each category's on its own. Names (labels) must differ.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
    version: Annotated[int, Field(ge=1)]
    description: str = ""
    acceptable: Annotated[str, Field(min_length=1, max_length=64)] = "acceptable"
    kinds: Kinds = ALL_KINDS
    threshold: Probability = 0.5
    categories: Annotated[tuple[Category, ...], Field(min_length=1)]
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    tests: tuple[PolicyTest, ...] = ()
    calibration: FittedCalibration | None = None
    evidence: Evidence | None = None

    @model_validator(mode="before")
    @classmethod
    def _categories_are_for_its_kinds(cls, data: Any) -> Any:
        """A policy about documents need not say so again in each category."""
        if not isinstance(data, dict) or not {*map(str, data.get("kinds") or ())} - {*ALL_KINDS}:
            return data
        own = data.get("categories") or ()
        return {**data, "categories": [{"kinds": data["kinds"], **c} if isinstance(c, dict) else c for c in own]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [category.id for category in self.categories]
        labels = [self.acceptable, *(category.name for category in self.categories)]
        for what, values in (("category id", ids), ("label", labels)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} stands twice")
        for category in self.categories:
            if category.parent is not None and (category.parent not in ids or category.id in self.ancestors(category)):
                raise ValueError(f"category {category.id!r}: parent {category.parent!r} is unknown or below itself")
            if not set(category.kinds) & set(self.kinds):
                raise ValueError(f"category {category.id!r} applies to no kind of item that the policy is for")
        cases: tuple[Rule | PolicyTest, ...] = (*self.allow, *self.deny, *self.tests)
        for case in cases:
            if case.category is not None and case.category not in ids:
                raise ValueError(f"category {case.category!r} is not in this policy")
        # Found anywhere in a text, `allow` would carry the rest of it past the judge; and an allow rule does but allow.
        if any(rule.action is Action.ALLOW for rule in self.deny):
            raise ValueError("a deny rule cannot have the action `allow`")
        if any(rule.action not in (None, Action.ALLOW) for rule in self.allow):
            raise ValueError("an allow rule has no other action than `allow`")
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all that can change a verdict (tests, evidence and the description for people are left out)."""
        data = self.model_dump(mode="json", exclude={"tests", "description", "evidence"})
        if self.calibration is None:  # a policy from before there was one keeps its hash
            del data["calibration"]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def uncalibrated(self, known: Collection[str]) -> tuple[str, ...]:
        """The ids of the categories whose scores rest on nothing measured.

        Known are the meanings that the model was trained and calibrated for; beside them, the categories for which
        `guard calibrate` found figures on held-back labels.
        """
        measured = {c.id for c in self.evidence.categories if c.held_back is not None} if self.evidence else set()
        return tuple(c.id for c in self.categories if c.meaning not in known and c.id not in measured)

    @property
    def default_kind(self) -> Kind:
        """`comment` for a policy that is only about comments, else `prompt` where the policy knows prompts."""
        return Kind.PROMPT if Kind.PROMPT in self.kinds else self.kinds[0]

    def ancestors(self, category: Category) -> list[str]:
        """The ids of a category's parent, its parent's parent and so on."""
        by_id = {other.id: other for other in self.categories}
        found: list[str] = []
        while category.parent is not None and category.parent not in found and category.parent in by_id:
            found.append(category.parent)
            category = by_id[category.parent]
        return found

    def under(self, thresholds: Thresholds) -> Policy:
        """This policy under a request's own thresholds. The model is asked the same.

        Each category then decides by itself: the threshold of the whole would undo a higher one of a category.
        Raises `UnknownPolicy` for a category that is not in the policy.
        """
        unknown = sorted({*thresholds.by_category} - {category.id for category in self.categories})
        if unknown:
            raise UnknownPolicy(
                f"Policy {self.id!r} has no category {unknown[0]!r}.",
                hint=f"Its categories: {', '.join(sorted(category.id for category in self.categories))}.",
                param="custom_category_thresholds",
            )

        def of(category: Category) -> Category:
            own = thresholds.by_category.get(category.id)
            if own is not None:
                return category.model_copy(update={"threshold": min(max(own, _LEAST), _MOST)})
            if thresholds.ignore_others and category.id not in thresholds.by_category:
                return category.model_copy(update={"action": Action.ALLOW, "threshold": _MOST})
            return category

        changed = {"categories": tuple(map(of, self.categories)), "threshold": _MOST}
        return Policy(**{**_shallow(self), **changed})

    def narrowed(self, categories: Iterable[str] | None, kind: Kind) -> Policy:
        """This policy with only the categories asked for and only those that apply to `kind`.

        The model is then asked with the narrower prompt; a child whose parent is left out belongs to the next one above
        that is kept, or stands alone.
        Raises `UnknownPolicy` for a category that is not in the policy, or when none is left.
        """
        wanted = None if categories is None else list(categories)
        ids = {category.id for category in self.categories}
        for name in wanted or ():
            if name not in ids:
                raise UnknownPolicy(
                    f"Policy {self.id!r} has no category {name!r}.",
                    hint=f"Its categories: {', '.join(sorted(ids))}.",
                    param="categories",
                )
        kept = [c for c in self.categories if kind in c.kinds and (wanted is None or c.id in wanted)]
        if kind not in self.kinds or not kept:
            raise UnknownPolicy(
                f"Policy {self.id!r} has no category left to ask of an item of kind {kind.value!r}.",
                hint=f"It applies to: {', '.join(self.kinds)}.",
                param="kind" if not wanted else "categories",
            )
        if len(kept) == len(self.categories):
            return self
        left = {category.id for category in kept}
        parents = [next((name for name in self.ancestors(c) if name in left), None) for c in kept]
        alone = tuple(c.model_copy(update={"parent": parent}) for c, parent in zip(kept, parents, strict=True))
        # Tests may name categories that are gone; rules stay in force whatever is asked.
        rules = {
            name: tuple(
                r if r.category in left else r.model_copy(update={"category": None}) for r in getattr(self, name)
            )
            for name in ("allow", "deny")
        }
        return Policy(**{**_shallow(self), "categories": alone, "tests": (), **rules})


class Thresholds(NamedTuple):
    """Thresholds that one request has of its own, by category (None: the policy's); with `ignore_others` the
    categories that are not named never stop an item."""

    by_category: Mapping[str, float | None]
    ignore_others: bool = False


def _shallow(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in Policy.model_fields}


def folded(text: str) -> str:
    """A text as terms are compared: compatibility forms, case and the extent of white space make no difference."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as cause:
        raise ValueError(f"not an RE2 expression: {pattern!r}: {cause}") from cause


def as_yaml(policy: Policy) -> str:
    """The policy as a file that `load_policy` reads, without what is said by default."""
    content = policy.model_dump(mode="json", exclude_defaults=True)
    for category in content["categories"]:
        if category["name"] == category["id"]:
            del category["name"]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def load_policy(path: Path) -> Policy:
    """Read one policy file. Raises `InvalidPolicy` with file and line."""
    return load_yaml(path, Policy)


class PolicyBook:
    """The policies that can be asked for: those that ship, then those of the operator's folders.

    A later file replaces an earlier one of the same id.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._policies: dict[str, Policy] = {}
        for folder in (shipped("prompts") / "policies", *folders):
            if not folder.is_dir():
                raise InvalidPolicy(f"{folder}: no such folder.", hint="Name a folder of policy files.")
            for path in sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")):
                policy = load_policy(path)
                self._policies[policy.id] = policy

    def __iter__(self) -> Any:
        return iter(self._policies.values())

    def get(self, name: str) -> Policy:
        """A policy by its id. Raises `UnknownPolicy`."""
        if name in self._policies:
            return self._policies[name]
        raise UnknownPolicy(
            f"No policy is called {name!r}.", hint=f"Known: {', '.join(sorted(self._policies))}.", param="policy"
        )
