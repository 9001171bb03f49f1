"""A block's verdicts, in three verbs for three threads: prepare (tokenise) → score (the engine) → records.

The one rule: exact duplicates are judged once, and which of them that is depends on the input alone. A text that stood
in the block, or in the `WINDOW` blocks before it, is not asked about again; a run that goes on after a crash is told
what those blocks held (`recall`), so it asks the same questions in the same batches as one that never stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from guard.engine.request import LogProbs, Request
from guard.errors import EngineError, GuardError, InvalidItem
from guard.item import Item, Kind
from guard.moderator import Asked, Moderator, Task
from guard.policy import Policy
from guard.scan.blocks import WINDOW, Block
from guard.scan.columns import Comment
from guard.scan.ledger import Record
from guard.scan.writers import BESIDE, JUDGED, judged
from guard.verdict import Decision, Verdict

_TOGETHER = 256  # texts that are scored between two signs of life

Key = bytes
_EMPTY = InvalidItem("The text is empty.")


class Prepared(NamedTuple):
    """A block on its way: each comment's key (None: it cannot be judged), and what is asked about the new ones."""

    block: Block
    keys: list[Key | None]
    asked: dict[Key, Asked]


class Scored(NamedTuple):
    """A block with what the engine said."""

    prepared: Prepared
    answers: dict[Key, Sequence[LogProbs | EngineError]]


class Judge:
    """Judges blocks, in their order, by one policy. The three verbs may run in three threads, each in one."""

    def __init__(self, moderator: Moderator, policy: Policy, kind: Kind, keep_text: bool = True) -> None:
        self._moderator = moderator
        self._beside = BESIDE if keep_text else tuple(name for name in BESIDE if name != "text")
        self._policy, self._kind = policy, kind
        self._coming: deque[set[Key]] = deque(maxlen=WINDOW)  # keys that `prepare` has seen
        self._known: deque[dict[Key, Record]] = deque(maxlen=WINDOW)  # what `records` has found of them

    def recall(self, block: Block, records: Sequence[Record]) -> None:
        """Learn the verdicts of a block that an earlier run has judged."""
        found: dict[Key, Record] = {
            key: {name: record[name] for name in JUDGED}
            for comment, record in zip(block.comments, records, strict=True)
            if (key := self._key(comment))
        }
        self._coming.append(set(found))
        self._known.append(found)

    def new(self, block: Block) -> tuple[list[Key | None], dict[Key, Comment]]:
        """Each comment's key, and the comments that have to be asked about: the first of each that is new."""
        keys = [self._key(comment) for comment in block.comments]
        first: dict[Key, Comment] = {}
        for key, comment in zip(keys, block.comments, strict=True):
            if key and key not in first and not any(key in earlier for earlier in self._coming):
                first[key] = comment
        self._coming.append({key for key in keys if key})
        return keys, first

    def prepare(self, block: Block) -> Prepared:
        """Tokenise what has to be asked."""
        keys, new = self.new(block)
        return Prepared(block, keys, {key: self._ask(comment) for key, comment in new.items()})

    def score(self, prepared: Prepared, on_scored: Callable[[float], None] = lambda share: None) -> Scored:
        """Ask the engine, similar lengths together. `on_scored` hears which share of the block is done."""
        requests = {key: asked.requests() for key, asked in prepared.asked.items()}
        in_order = sorted(requests, key=lambda key: sum(map(_length, requests[key])))
        answers: dict[Key, Sequence[LogProbs | EngineError]] = {}
        for start in range(0, len(in_order), _TOGETHER):
            some = in_order[start : start + _TOGETHER]
            answers |= zip(some, self._answers([requests[key] for key in some]), strict=True)
            on_scored(len(answers) / len(in_order))
        return Scored(prepared, answers)

    def records(self, scored: Scored) -> tuple[list[Record], list[Record]]:
        """A record for each row, and what is to be said of those without a verdict."""
        (block, keys, asked), answers = scored
        found: dict[Key, Record] = {key: judged(self._verdict(asked[key], answers[key])) for key in asked}
        records: list[Record] = []
        errors: list[Record] = []
        for comment, key in zip(block.comments, keys, strict=True):
            if key is None:
                verdict: Record = judged(self._moderator.failed(self._policy, comment.error or _EMPTY))
            else:
                verdict = found.get(key) or next(known[key] for known in reversed(self._known) if key in known)
                found.setdefault(key, verdict)
            beside = {name: getattr(comment, name) for name in self._beside}
            records.append({"id": comment.id, **verdict, **beside})
            if verdict["decision"] == Decision.ERROR:
                code, _, message = str(verdict["error"]).partition(": ")
                errors.append(
                    {"id": comment.id, "row": comment.number, "code": code, "message": message, "text": comment.raw}
                )
        self._known.append(found)
        return records, errors

    def _key(self, comment: Comment) -> Key | None:
        """The same for comments of which the same is asked."""
        if comment.error or not comment.text.strip():
            return None
        parts = (comment.text, comment.parent, comment.title) if self._kind is Kind.COMMENT else (comment.text,)
        return blake2b(repr(parts).encode(), digest_size=16).digest()

    def _ask(self, comment: Comment) -> Asked:
        context = {"parent": comment.parent, "title": comment.title} if self._kind is Kind.COMMENT else {}
        task = Task(Item(text=comment.text, kind=self._kind, **context), self._policy)
        return self._moderator.ask(task)

    def _answers(self, requests: Sequence[list[Request]]) -> list[Sequence[LogProbs | EngineError]]:
        """The engine's answers to each text's requests. Should it raise, each text is tried alone, so that one cannot
        take the others with it."""
        flat = [request for some in requests for request in some]
        try:
            scored: Iterable[LogProbs | EngineError] = self._moderator.score(flat) if flat else []
        except Exception as cause:
            if len(requests) > 1:
                return [answer for some in requests for answer in self._answers([some])]
            error = cause if isinstance(cause, EngineError) else EngineError(f"Judging failed: {type(cause).__name__}.")
            scored = [error] * len(flat)  # a foreign message may quote the text
        scores = iter(scored)
        return [[next(scores) for _ in some] for some in requests]

    def _verdict(self, asked: Asked, answers: Sequence[LogProbs | EngineError]) -> Verdict:
        try:
            return self._moderator.answer(asked, answers)
        except GuardError as error:
            return self._moderator.failed(self._policy, error)


def _length(request: Request) -> int:
    return sum(map(len, request.segments))
