"""The pipeline, in verbs: cut → render → score → calibrate → decide.

    item ──read──▶ rules (deny or allow list) ─────────────────────────────────────────────▶ Verdict
               └──▶ prompt.content ──▶ cut ──▶ requests ──▶ engine.score ──▶ calibrate ──▶ decide ──▶ Verdict

The service, the scanner, the command line and the evaluation all come through `Moderator.judge_many`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from guard.calibration import Calibration, Platt, calibrated
from guard.engine.request import Engine, LogProbs, Request
from guard.errors import EngineError, GuardError, InvalidPolicy
from guard.item import Item, Kind
from guard.language import supported
from guard.passages import Cut, cut
from guard.policy import Action, Policy, PolicyBook, Rule, folded
from guard.prompt import Content, Prompt, load_template
from guard.reading.parts import SURE, parts
from guard.reading.read import Reader
from guard.reading.reading import Reading
from guard.resources import shipped
from guard.settings import Settings, load_settings
from guard.tokenizer import Tokenizer
from guard.verdict import STRICTNESS, Decision, Passage, Verdict, decide, failure

_EXCERPT = 200  # characters of the deciding passage that a verdict shows
_PROMPTS_KEPT = 256
_ROUNDING = 1e-2
_SMALLEST_ROOM = 16  # tokens of text per passage, below which a prompt is too long for the model


class Task(NamedTuple):
    """An item and the policy to judge it by, already narrowed to the categories asked for."""

    item: Item
    policy: Policy


@dataclass(frozen=True)
class Asked:
    """A task on its way: what is asked of the engine about it, and what a rule says.

    Nothing is asked where a rule settled it (`ruled` alone) or where it could not be asked (`failed`).
    """

    task: Task
    reading: Reading | None = None
    wordings: tuple[tuple[Prompt, Content], ...] = ()
    cut: Cut | None = None
    ruled: Verdict | None = None
    failed: GuardError | None = None

    @property
    def content(self) -> Content | None:
        """What is asked about, in the first wording."""
        return self.wordings[0][1] if self.wordings else None

    def requests(self) -> list[Request]:
        """One for each passage in each wording, those of a passage together."""
        return [
            Request(
                (prompt.prefix, (*content.before, *ids, *content.after), prompt.question),
                prompt.labels,
                prompt.terminator,
            )
            for _, ids, _ in (self.cut.all if self.cut else ())
            for prompt, content in self.wordings
        ]


class Moderator:
    """Judges items. `Moderator.load()` brings the model that the settings name; safe to share between threads.

    >>> from guard.engine.fake import FakeEngine
    >>> from guard.resources import shipped
    >>> from guard.tokenizer import load_tokenizer
    >>> scripted = FakeEngine([[0.1, 0.7, 0.04, 0.04, 0.04, 0.04, 0.04]])
    >>> moderator = Moderator(scripted, load_tokenizer(shipped("models") / "embedded"))
    >>> verdict = moderator.judge("You fool", policy="forum-comments")
    >>> verdict.decision.value, verdict.categories, round(verdict.score, 3)
    ('flag', ('insult',), 0.9)
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, *, calibration: Calibration | None = None,
        languages: tuple[str, ...] | None = None, policies: PolicyBook | None = None, settings: Settings | None = None,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.settings = settings or load_settings()
        self.policies = policies or PolicyBook(self.settings.policies)
        self.tokenizer = tokenizer
        self._calibration = calibration or Calibration()
        self._languages = languages
        folders = (None, shipped("prompts") / "second") if "wording" in self.settings.defences else (None,)
        self._templates = {kind: tuple(load_template(kind, folder) for folder in folders) for kind in Kind}
        self._prompts: dict[tuple[Kind, str], tuple[Prompt, ...]] = {}

    @classmethod
    def load(cls, settings: Settings | None = None) -> Moderator:
        """The moderator that the settings describe. Raises `ModelUnavailable`, `InvalidPolicy` or `InvalidSettings`."""
        from guard.loading import load_moderator

        return load_moderator(settings or load_settings())

    def worded(self, templates: Path) -> Moderator:
        """This moderator, asking in the wording of a folder (KIND.yaml each) alone. Raises `InvalidPolicy`."""
        other = copy(self)
        other._templates = {kind: (load_template(kind, templates),) for kind in Kind}
        other._prompts = {}
        return other

    def judge(
        self, text: str | Item, *, policy: str | Policy | None = None, categories: Iterable[str] | None = None,
        kind: Kind | str | None = None,
    ) -> Verdict:  # fmt: skip
        """Judge one text (or `Item`, for an answer with its prompt or a comment with its thread).

        Raises `InvalidItem` for an empty text and `UnknownPolicy`; a failure of the engine is a verdict with the
        decision `error`.
        """
        return self.judge_many([self.task(text, policy=policy, categories=categories, kind=kind)])[0]

    async def ajudge(
        self, text: str | Item, *, policy: str | Policy | None = None, categories: Iterable[str] | None = None,
        kind: Kind | str | None = None,
    ) -> Verdict:  # fmt: skip
        """`judge` for asyncio: the work runs in a thread."""
        task = self.task(text, policy=policy, categories=categories, kind=kind)
        return (await asyncio.to_thread(self.judge_many, [task]))[0]

    def task(
        self, text: str | Item, *, policy: str | Policy | None = None, categories: Iterable[str] | None = None,
        kind: Kind | str | None = None,
    ) -> Task:  # fmt: skip
        """A text and the names of what to judge it by, as a task for `judge_many`. Raises as `judge` does."""
        named = self.settings.policy if policy is None else policy
        chosen = named if isinstance(named, Policy) else self.policies.get(named)
        kind = chosen.default_kind if kind is None else kind
        item = text if isinstance(text, Item) else Item.model_validate({"text": text, "kind": kind})
        return Task(item, chosen.narrowed(categories, item.kind))

    def judge_many(self, tasks: Sequence[Task]) -> list[Verdict]:
        """One verdict per task, in order. Never raises for a single task's sake: it gets the decision `error`.

        Raises what the engine raises, and `EngineError` when it does not answer each request: no answer can then be
        told from its neighbour's.
        """
        asked = [self.ask(task) for task in tasks]
        requests = [asking.requests() for asking in asked]
        flat = [request for per_task in requests for request in per_task]
        scored = iter(self.score(flat) if flat else [])
        return [
            self.answer(asking, [next(scored) for _ in per_task])
            for asking, per_task in zip(asked, requests, strict=True)
        ]

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        """What the engine answers to requests of the caller's own, an answer that is none turned into an error.

        Raises as `judge_many` does.
        """
        return checked(requests, self.engine.score(requests))

    def pin(self, *policies: str) -> None:
        """Have the engine keep what the prompts of these policies share, for every kind of item that they judge.

        They replace those pinned before. Raises `UnknownPolicy`, or `EngineError` where they do not fit.
        """
        asked = [
            prompt
            for policy in map(self.policies.get, policies)
            for kind in policy.kinds
            if any(kind in category.kinds for category in policy.categories)
            for prompt in self.wordings(kind, policy.narrowed(None, kind))
        ]
        self.engine.pin([prompt.prefix for prompt in asked])

    def failed(self, policy: Policy, error: GuardError) -> Verdict:
        """The verdict on what nobody could judge."""
        return Verdict(**self._judged_by(policy), decision=Decision.ERROR, error=failure(error), reason="error")

    def wordings(self, kind: Kind, policy: Policy) -> tuple[Prompt, ...]:
        """The prompts that items of a kind are asked with under a policy, which is taken as it is."""
        key = (kind, policy.hash)
        prompts = self._prompts.get(key)
        if prompts is None:
            if len(self._prompts) >= _PROMPTS_KEPT:  # narrowed policies come from callers: the number is bounded
                self._prompts.clear()
            prompts = tuple(Prompt(template, policy, self.tokenizer) for template in self._templates[kind])
            self._prompts[key] = prompts
        return prompts

    def ask(self, task: Task, encode: Callable[[str], list[int]] | None = None) -> Asked:
        """What there is to be asked about a task. `encode`: the tokenizer's, or a caller's that remembers words."""
        try:
            reading = self._read(task.item.text)
            ruled = self._by_rule(task, reading.text)
            if ruled is not None and ruled.decision in (Decision.ALLOW, Decision.BLOCK):
                return Asked(task, ruled=ruled)  # the model could add nothing
            self._require_its_model(task.policy)
            item = task.item.model_copy(update={"text": reading.text, **self._read_around(task.item)})
            wordings = tuple((prompt, prompt.content(item)) for prompt in self.wordings(item.kind, task.policy))
            frame = max(
                len(prompt.prefix) + len(content.before) + len(content.after) + len(prompt.question)
                + 1 + max(map(len, prompt.labels))
                for prompt, content in wordings
            )  # fmt: skip
            room = min(self.settings.passage_tokens, self.engine.max_tokens - frame)
            if room < _SMALLEST_ROOM:
                raise EngineError(
                    f"Policy {task.policy.id!r} leaves room for {room} tokens of text in this model.",
                    hint="Shorten the policy, narrow it to fewer categories, or use a model with a larger window.",
                )
            overlap = min(self.settings.passage_overlap, room // 2)
            return Asked(
                task, reading, wordings, self._cut(wordings[0][1].text, encode or self.tokenizer.encode, room, overlap),
                ruled,
            )  # fmt: skip
        except GuardError as error:
            return Asked(task, failed=error)
        except Exception as cause:  # whatever a tokenizer raises at one text, the others are judged
            return Asked(task, failed=EngineError(f"The text could not be tokenised: {type(cause).__name__}."))

    def _read(self, text: str) -> Reading:
        defences = self.settings.defences
        return self._reader.read(text, fold="fold" in defences, decode="decode" in defences)

    def _read_around(self, item: Item) -> dict[str, str]:
        """What stands around an item's text, read as the text is."""
        given = {name: getattr(item, name) for name in ("prompt", "parent", "title")}
        return {name: self._read(text).text for name, text in given.items() if text}

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.tokenizer.encode)

    def _cut(self, text: str, encode: Callable[[str], list[int]], room: int, overlap: int) -> Cut:
        """The passages of a text and, where that is asked for, its parts as further ones."""
        made = cut(text, encode, room, overlap, self.settings.max_passages)
        if "parts" not in self.settings.defences:
            return made
        alone = ((start, cut(text[start:end], encode, room, overlap, 1)) for start, end in parts(text))
        further = [(words, ids, start + at) for start, part in alone for words, ids, at in part.passages]
        return replace(made, parts=tuple(further))

    def answer(self, asked: Asked, scored: Sequence[LogProbs | EngineError]) -> Verdict:
        """What a rule settled, or the stricter of rule and model: a flagged word must not save a text from a block."""
        ruled = asked.ruled
        if ruled is not None and not (asked.wordings or asked.failed):
            return ruled
        judged = self._by_model(asked, scored)
        if ruled is None or judged.error or STRICTNESS.index(judged.decision) > STRICTNESS.index(ruled.decision):
            return judged
        return ruled

    def _by_model(self, asked: Asked, scored: Sequence[LogProbs | EngineError]) -> Verdict:
        failed = asked.failed or next((s for s in scored if isinstance(s, EngineError)), None)
        if failed is not None:
            return self.failed(asked.task.policy, failed)
        assert asked.wordings and asked.content and asked.cut and asked.reading  # `ask` sets them unless it failed
        item, policy = asked.task
        fit = self._fit(policy, item.kind)
        answers = [s for s in scored if not isinstance(s, EngineError)]
        together = zip(*[iter(answers)] * len(asked.wordings), strict=True)
        passages = [calibrated(fit, _averaged(answers)) for answers in together]
        # Each passage is decided by itself, so that none hides behind another: the strictest decision stands.
        ids = [category.id for category in policy.categories]
        whole = len(asked.cut.passages)
        counted = [at for at, (score, _) in enumerate(passages) if at < whole or score >= SURE]
        passages = [passages[at] for at in counted]
        decided = [decide(policy, score, dict(zip(ids, shares, strict=True))) for score, shares in passages]
        deciding = max(range(len(decided)), key=lambda i: (STRICTNESS.index(decided[i][0]), passages[i][0]))
        decision, reason = decided[deciding][0], "model"
        if decision is Decision.ALLOW and asked.cut.truncated:
            decision, reason = Decision.REVIEW, "truncated"  # what nobody read is not accepted
        return self._verdict(
            asked.task,
            decision,
            reason=reason,
            score=max(score for score, _ in passages),
            category_scores={id_: max(totals[id_] for _, totals, _ in decided) for id_ in ids},
            categories=tuple(id_ for id_ in ids if any(id_ in named for _, _, named in decided)),
            prompt_hash=asked.wordings[0][0].hash,
            passages=len(asked.cut.all),
            passage=_passage(counted[deciding], asked.cut, asked.content, asked.reading),
            truncated=asked.cut.truncated or asked.content.context_cut,
        )

    def _require_its_model(self, policy: Policy) -> None:
        """A policy's thresholds were promised for one model; under another they would be broken without a word."""
        if policy.calibration is not None and policy.calibration.model != self.engine.model_id:
            raise InvalidPolicy(
                f"Policy {policy.id!r} version {policy.version} was calibrated for the model "
                f"{policy.calibration.model}, and this is {self.engine.model_id}.",
                hint="Run `guard calibrate` with this model, or remove `calibration` and `evidence` from the policy.",
            )

    def _fit(self, policy: Policy, kind: Kind) -> Platt:
        """The policy's own calibration for a kind of item, else what the model brings."""
        own = {fit.kind: Platt(fit.scale, fit.shift) for fit in policy.calibration.fits} if policy.calibration else {}
        return own.get(kind) or self._calibration.fit(policy.id, kind)

    def _by_rule(self, task: Task, read: str) -> Verdict | None:
        """The strictest deny rule found anywhere in the text, or in what was `read` in it, decides, then an allow rule
        that covers all of the text."""
        text, policy = task.item.text, task.policy
        if not policy.deny and not policy.allow:
            return None
        as_folded = folded(text)
        seen = {text: as_folded, read: as_folded if read == text else folded(read)}
        denied = [rule for rule in policy.deny if any(rule.found_in(*one) for one in seen.items())]
        if denied:
            rule = max(denied, key=lambda rule: STRICTNESS.index(_denies(rule)))
            return self._ruled(task, rule, _denies(rule), 1.0)
        for rule in policy.allow:
            if rule.covers(text, as_folded):
                return self._ruled(task, rule, Action.ALLOW, 0.0)
        return None

    def _ruled(self, task: Task, rule: Rule, action: Action, score: float) -> Verdict:
        named = (rule.category,) if rule.category else ()
        scores = {c.id: score if c.id in named else 0.0 for c in task.policy.categories}
        return self._verdict(
            task, Decision(action.value), reason=f"rule: {rule.reason}", score=score, category_scores=scores,
            categories=named,
        )  # fmt: skip

    def _verdict(self, task: Task, decision: Decision, **found: Any) -> Verdict:
        foreign = not supported(task.item.text, self._languages)
        return Verdict(
            **self._judged_by(task.policy), **found, decision=decision, unsupported_language=foreign,
            uncalibrated=task.policy.uncalibrated(self._calibration.known),
        )  # fmt: skip

    def _judged_by(self, policy: Policy) -> dict[str, Any]:
        return {
            "policy": policy.id,
            "policy_version": policy.version,
            "policy_hash": policy.hash,
            "model": self.engine.model_id,
        }


def _denies(rule: Rule) -> Action:
    return rule.action or Action.BLOCK


def _averaged(answers: Sequence[LogProbs]) -> LogProbs:
    """One passage's log-probabilities in several wordings → those of the mean of the probabilities."""
    if len(answers) == 1:
        return answers[0]
    means = (sum(map(math.exp, label)) / len(answers) for label in zip(*answers, strict=True))
    return tuple(math.log(mean or sys.float_info.min) for mean in means)


def _passage(index: int, made: Cut, content: Content, reading: Reading) -> Passage:
    """A passage and its place in the text that was sent."""
    text, _, at = made.all[index]
    start, end = (content.place(reading.text, place) for place in (at, at + len(text)))
    start, end = reading.span(start, end)
    return Passage(index=index, excerpt=text[:_EXCERPT], start=start, end=end)


def checked(requests: Sequence[Request], answers: Sequence[LogProbs | EngineError]) -> list[LogProbs | EngineError]:
    """An engine's answers, those that are none turned into errors. Raises `EngineError` where their number is wrong."""
    if len(answers) != len(requests):
        raise EngineError(f"The engine gave {len(answers)} answers to {len(requests)} requests.")
    return list(map(_checked, requests, answers))


def _checked(request: Request, answer: LogProbs | EngineError) -> LogProbs | EngineError:
    """The answer, if it is one: NaN compares as below every threshold, and a missing label would shift the others."""
    if isinstance(answer, EngineError):
        return answer
    if len(answer) != len(request.labels):
        return EngineError(f"The engine gave {len(answer)} numbers for {len(request.labels)} labels.")
    # log-probabilities are at most 0, but for rounding; anything else, such as logits, is not to be read as such
    if not all(math.isfinite(value) and value < _ROUNDING for value in answer):
        return EngineError("The engine gave a number that is no log-probability.", hint="Check the model.")
    return answer
