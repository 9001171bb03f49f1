"""A text judged while it is being written: each prefix of it as `judge_many` would judge that prefix as a whole.

    prefix text ──Moderator.ask──▶ passages ──new tokens, question──▶ engine.ask ──Moderator.answer──▶ Verdict
                                      └── settled tokens ──engine.extend──▶ keys and values that are kept

The one rule: the verdict on a prefix is the one that this text would get alone, rules, passages and limits included.
Only work is shared: the keys and values of the policy, of the prompt and of the passage so far are kept by the engine,
so that a further prefix costs its new tokens and the question. An engine that has no room for that, or cannot do it, is
asked as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from guard.engine.request import Ids, LogProbs, Request, RunningEngine
from guard.errors import EngineError, GuardError, described
from guard.item import Item
from guard.moderator import Moderator, Task, checked
from guard.policy import Policy
from guard.verdict import Verdict

_log = logging.getLogger(__name__)

_UNSETTLED = 4  # tokens at the end of a prefix that what is written next may still change
_STEP = 16  # settled tokens that are taken in together: a pass costs more than some tokens that are read once more
_TOGETHER = 32  # prefixes: each is its own question, and their memory grows with their number
_WORDS = 4096  # whose tokens are remembered


class Running:
    """The prefixes of one item's text, in the order in which they are written. Not for several threads at once."""

    def __init__(self, moderator: Moderator, item: Item, policy: Policy) -> None:
        """`item` brings kind and context (its text stands for any); `policy` is narrowed to the kind."""
        self._moderator, self._item, self._policy = moderator, item, policy
        self._encode = lru_cache(_WORDS)(moderator.tokenizer.encode)
        self._known: dict[Request, LogProbs | EngineError] = {}  # of the prefix before: most passages do not change
        engine = moderator.engine
        # what the engine keeps of a text is for one wording; two are asked as any other text
        once = "wording" not in moderator.settings.defences
        self._engine: RunningEngine[Any] | None = engine if isinstance(engine, RunningEngine) and once else None
        self._stream: Any = None
        self._held: Ids = ()  # what the stream holds behind the policy

    def prepare(self) -> None:
        """Have the engine read what stands before the text, while its first words are still to come."""
        asking = self._moderator.ask(Task(self._item, self._policy))
        if self._engine is not None and asking.content is not None and (requests := asking.requests()):
            with suppress(GuardError):  # `judge` meets it again, and says so
                self._begin(self._engine, requests[0].segments[0], asking.content.before)

    def judge(self, texts: Sequence[str]) -> Iterator[Verdict]:
        """One verdict for each text, which goes on where the one before ends, as they are found: those that nobody
        waits for are not looked for. Raises what `judge_many` raises."""
        for first in range(0, len(texts), _TOGETHER):
            yield from self._judged(texts[first : first + _TOGETHER])

    def _judged(self, texts: Sequence[str]) -> list[Verdict]:
        asked = [
            self._moderator.ask(Task(self._item.model_copy(update={"text": text}), self._policy), self._encode)
            for text in texts
        ]
        requests = [asking.requests() for asking in asked]
        wanted = [r for r in dict.fromkeys(r for each in requests for r in each) if r not in self._known]
        if wanted:
            behind = next(len(a.content.after) for a in asked if a.content is not None)
            before = next(a.content.before for a in asked if a.content is not None)
            self._known |= zip(wanted, self._scored(wanted, before, behind), strict=True)
        verdicts = [
            self._moderator.answer(asking, [self._known[request] for request in each])
            for asking, each in zip(asked, requests, strict=True)
        ]
        last = {request: self._known[request] for request in requests[-1]}
        self._known = {r: answer for r, answer in last.items() if not isinstance(answer, EngineError)}  # ask again
        return verdicts

    def close(self) -> None:
        """Give back what the engine keeps."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _scored(self, requests: list[Request], before: Ids, behind: int) -> list[LogProbs | EngineError]:
        """The engine's answers. `before` are the tokens before the text; `behind` is how many stand behind it."""
        if self._engine is not None:
            try:
                return [a for group in self._groups(self._engine, requests, before, behind) for a in group]
            except EngineError as error:  # no room, most likely: judged anew each time it costs more, and is the same
                _log.warning("a running text is judged anew each time: %s", described(error))
                self.close()
                self._engine = None
        return self._moderator.score(requests)

    def _begin(self, engine: RunningEngine[Any], prefix: Ids, before: Ids) -> None:
        self.close()
        self._stream = engine.stream()
        engine.extend(self._stream, (*prefix, *before))
        self._held = before

    def _groups(
        self, engine: RunningEngine[Any], requests: list[Request], before: Ids, behind: int
    ) -> Iterator[list[LogProbs | EngineError]]:
        """Answers to as many requests at a time as go on from what the stream holds."""
        while requests:
            bodies = [_body(request, behind) for request in requests]
            if self._stream is None or not _begins(bodies[0], self._held):
                self._begin(engine, requests[0].segments[0], before)
            together = len(list(takewhile(lambda body: _begins(body, self._held), bodies)))
            asks = [_behind(request, len(self._held), behind) for request in requests[:together]]
            yield checked(asks, engine.ask(self._stream, asks))
            settled = bodies[together - 1][:-_UNSETTLED]
            if len(settled) - len(self._held) >= _STEP:
                engine.extend(self._stream, settled[len(self._held) :])
                self._held = settled
            requests = requests[together:]


def _body(request: Request, behind: int) -> Ids:
    """What stands between the policy and the closing quote."""
    content = request.segments[1]
    return content[: len(content) - behind]


def _behind(request: Request, held: int, behind: int) -> Request:
    """The request as it stands behind a stream that holds its policy and `held` tokens more.

    Each new token is a segment, so that prefixes share those that they have in common.
    """
    _, content, question = request.segments
    end = len(content) - behind
    new = tuple((token,) for token in content[held:end])
    return replace(request, segments=((), *new, (*content[end:], *question)))


def _begins(ids: Ids, beginning: Ids) -> bool:
    return ids[: len(beginning)] == beginning
