"""`guard explain`: which sentences of a text its verdict rests on, by leaving each of them out.

The one rule: a text less a sentence is judged as if it had come alone, so every figure can be had again with
`guard check`, but for rounding. All these texts are asked about in one call, their token ids laid out as a tree: the
beginning that some of them share is computed once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

from guard.engine.request import Ids, Request
from guard.errors import EngineError
from guard.moderator import Asked, Moderator, Task
from guard.policy import Rule
from guard.sentences import Span, sentences
from guard.verdict import Verdict

_MOST_PARTS, _FEWEST_PARTS = 64, 8
_CHARACTERS = 500_000  # asked about together; a longer text is explained in fewer parts


@dataclass(frozen=True)
class Part:
    """Characters `start` to `end` of the item's text: a sentence, or a part of a long one, or several of a long text.

    `without` is the verdict on the text less this part, None where nothing would be left. `change` is what the part
    adds to the score, `categories` what it adds to that of each category named: above 0, the text is worse for it.
    `decides`: without it, the decision is another one.
    """

    start: int
    end: int
    text: str
    without: Verdict | None
    change: float
    categories: dict[str, float]
    decides: bool


@dataclass(frozen=True)
class Ruling:
    """The allow or deny rule that decided, and the characters where it first matches (of a term, the words that hold
    it); `span` is None where only the folding of the text brings the term to light."""

    rule: Rule
    span: Span | None


@dataclass(frozen=True)
class Explanation:
    """What the verdict on a text rests on.

    `verdict` is what `Moderator.judge` says about the text. Of a text that is too long to be read whole, only its first
    `read` characters are explained, and `base` is the verdict on these; else they are all its characters and the same
    verdict. The `parts` stand in the order of the text.
    """

    verdict: Verdict
    base: Verdict
    read: int
    ruling: Ruling | None
    parts: tuple[Part, ...]

    @cached_property
    def ranked(self) -> tuple[Part, ...]:
        """The parts whose removal changes the score most, up or down, first."""
        return tuple(sorted(self.parts, key=lambda part: -abs(part.change)))

    def as_json(self) -> dict[str, Any]:
        """The serial form: the parts ranked, each with the score, the decision and the named categories without it."""
        return {
            "verdict": self.verdict.model_dump(mode="json"),
            "read": self.read,
            "base": {"decision": self.base.decision.value, "score": self.base.score},
            "rule": self.ruling and {**self.ruling.rule.model_dump(mode="json"), "span": self.ruling.span},
            "parts": [
                {
                    "start": part.start,
                    "end": part.end,
                    "text": part.text,
                    "change": part.change,
                    "categories": part.categories,
                    "decides": part.decides,
                    "without": part.without and {"decision": part.without.decision.value, "score": part.without.score},
                }
                for part in self.ranked
            ],
        }


def explain(moderator: Moderator, task: Task) -> Explanation:
    """Judge a text, and the text less each of its sentences.

    At most 64 parts are made, and fewer of a text of more than some 8,000 characters (64 times its length is then more
    than 500,000), but 8. Raises what `Moderator.judge_many` raises, and `EngineError` where one of the texts could not
    be judged: an explanation with holes would mislead.

    An engine that finds "fool" insulting, in a text whose second sentence holds it:

    >>> from guard.engine.fake import FakeEngine
    >>> from guard.resources import shipped
    >>> from guard.tokenizer import load_tokenizer
    >>> engine = FakeEngine([[p, 0.95 - p, 0.01, 0.01, 0.01, 0.01, 0.01] for p in (0.2, 0.1, 0.9)])
    >>> moderator = Moderator(engine, load_tokenizer(shipped("models") / "embedded"))
    >>> found = explain(moderator, moderator.task("I read it. You fool!", policy="forum-comments"))
    >>> found.verdict.decision.value, round(found.verdict.score, 2)
    ('flag', 0.8)
    >>> [(part.text, round(part.change, 2), part.without.decision.value, part.decides) for part in found.ranked]
    [('You fool!', 0.7, 'allow', True), ('I read it.', -0.1, 'flag', False)]
    """
    encode = lru_cache(maxsize=None)(moderator.tokenizer.encode)  # these texts have nearly all their words in common
    asked = [moderator.ask(task, encode)]
    text = task.item.text
    if asked[0].cut and asked[0].cut.truncated:
        text = text[: _read(moderator, task, encode)]
        asked += [moderator.ask(_with_text(task, text), encode)] if text.strip() else []
    spans = sentences(text, max(_FEWEST_PARTS, min(_MOST_PARTS, _CHARACTERS // len(text)))) if text else []
    if len(spans) > 1:
        asked += [moderator.ask(_with_text(task, shorter), encode) for shorter in _shortened(text, spans)]
    verdicts = _judged(moderator, asked)
    base = verdicts[-len(spans) - 1] if len(spans) > 1 else verdicts[-1]
    without = verdicts[-len(spans) :] if len(spans) > 1 else [None] * len(spans)
    parts = [_part(text, span, base, verdict) for span, verdict in zip(spans, without, strict=True)]
    return Explanation(verdicts[0], base, len(text), _ruling(task, verdicts[0]), tuple(parts))


def _with_text(task: Task, text: str) -> Task:
    return Task(task.item.model_copy(update={"text": text}), task.policy)


def _read(moderator: Moderator, task: Task, encode: Callable[[str], list[int]]) -> int:
    """How many characters of a text are read, if it is too long: so many of them alone would be read whole."""
    text = task.item.text

    def too_long(length: int) -> bool:
        cut = moderator.ask(_with_text(task, text[:length]), encode).cut
        return cut is None or cut.truncated

    return max(0, bisect_left(range(len(text)), True, key=too_long) - 1)


def _shortened(text: str, spans: Sequence[Span]) -> list[str]:
    """The text less each span, and less the white space between it and its neighbour.

    >>> _shortened("One. Two.  Three.", [(0, 4), (5, 9), (11, 17)])
    ['Two.  Three.', 'One. Three.', 'One. Two.']
    """
    starts = [start for start, _ in spans]
    inner = [text[:start] + text[following:] for start, following in pairwise(starts)]
    return [*inner, text[: spans[-2][1]]]


def _judged(moderator: Moderator, asked: Sequence[Asked]) -> list[Verdict]:
    """A verdict on each; equal questions are asked once."""
    requests = [asking.requests() for asking in asked]
    distinct = list(dict.fromkeys(request for per_text in requests for request in per_text))
    scored = moderator.score(_with_common_beginnings(distinct)) if distinct else []
    answers = dict(zip(distinct, scored, strict=True))
    verdicts = [
        moderator.answer(asking, [answers[request] for request in per_text])
        for asking, per_text in zip(asked, requests, strict=True)
    ]
    for error in (verdict.error for verdict in verdicts):
        if error is not None:
            raise EngineError(f"The text cannot be explained: {error.message}", hint=error.hint)
    return verdicts


def _with_common_beginnings(requests: Sequence[Request]) -> list[Request]:
    """The same questions, their contents cut wherever two of them part, so that the tree holds what they share once.

    >>> paths = [((1,), content, (9,)) for content in ((4, 5, 6, 7), (4, 5, 7), (4, 6, 7))]
    >>> for request in _with_common_beginnings([Request(path, labels=((2,),), terminator=0) for path in paths]):
    ...     print(request.segments)
    ((1,), (4,), (5,), (6, 7), (9,))
    ((1,), (4,), (5,), (7,), (9,))
    ((1,), (4,), (6, 7), (9,))
    """
    order = sorted(range(len(requests)), key=lambda number: requests[number].segments)
    contents = [requests[number].segments[1] for number in order]
    common = [_in_common(one, next_) for one, next_ in pairwise(contents)]
    made = list(requests)
    for place, (number, content) in enumerate(zip(order, contents, strict=True)):
        # in sorted order, two have in common what the least alike of the neighbours between them have
        partings = {*accumulate(reversed(common[:place]), min), *accumulate(common[place:], min)}
        prefix, _, question = requests[number].segments
        cut = (content[start:end] for start, end in pairwise(sorted({0, *partings, len(content)})))
        made[number] = replace(requests[number], segments=(prefix, *cut, question))
    return made


def _in_common(one: Ids, other: Ids) -> int:
    """Tokens with which both begin."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _part(text: str, span: Span, base: Verdict, without: Verdict | None) -> Part:
    if without is None:
        return Part(*span, text[slice(*span)], None, 0.0, {}, decides=False)
    categories = {id_: base.category_scores[id_] - without.category_scores[id_] for id_ in base.categories}
    change = (base.score or 0.0) - (without.score or 0.0)
    return Part(*span, text[slice(*span)], without, change, categories, base.decision is not without.decision)


def _ruling(task: Task, verdict: Verdict) -> Ruling | None:
    """The rule that decided. A deny rule without an action blocks, and the strictest goes first: see `Moderator`."""
    if not verdict.reason.startswith("rule: "):
        return None
    rules = task.policy.allow if verdict.accepted else task.policy.deny
    for rule in rules:
        if f"rule: {rule.reason}" == verdict.reason and rule.action in (None, verdict.decision.value):
            matches = rule.covers if verdict.accepted else rule.found_in
            if matches(task.item.text):
                return Ruling(rule, rule.span_in(task.item.text))
    return None
