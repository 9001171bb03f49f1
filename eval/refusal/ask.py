"""Ask an assistant every prompt under every system prompt, and keep what it says as soon as it is there.

The one rule: whatever the target does, each question ends as a row, an answer or the reason why there is none. An
answer without a letter or a digit is none. What has an answer is not asked again; what has none is, by the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx

from guard.errors import AssistantFailed, GuardError, InputError
from guard.service.assistant import Assistant

from .kept import ANSWERED, UNANSWERED, Kept, Row
from .prompts import Prompt
from .systems import System

LONGEST_PAUSE = 60.0  # seconds, whatever a target asks for
GIVE_UP = 20  # questions in a row at which the target failed; the rest is left for another run
NOT_ASKED = f"not asked, because the target had failed at {GIVE_UP} questions in a row"
_PASSING = {408, 409, 425, 429}  # statuses below 500 that may be another one next time


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how. All of it is part of a question's key: answers to other settings are other answers."""

    target: str
    model: str | None = None  # the name that the target is to know it by; left out without one
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    stream: bool = False


@dataclass(frozen=True)
class Patience:
    """How the asking copes: questions at once, further tries of each, seconds for a whole answer, and the first pause
    before another try, which doubles each time and is never shorter than the target's Retry-After."""

    concurrency: int = 4
    retries: int = 2
    seconds: float = 120.0
    pause: float = 1.0


class Question(NamedTuple):
    """One prompt under one system prompt."""

    prompt: Prompt
    system: System

    def key(self, asking: Asking) -> str:
        """SHA-256 over what decides the answer."""
        parts = [self.prompt.id, self.prompt.text, self.system.hash, asdict(asking)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def messages(self) -> list[dict[str, str]]:
        """The chat that asks it."""
        before = [{"role": "system", "content": self.system.text}] if self.system.text else []
        return [*before, {"role": "user", "content": self.prompt.text}]

    def row(self) -> Row:
        """What a row says of the question."""
        return {**self.prompt._asdict(), "system": self.system.name, "system_hash": self.system.hash}


class Said(NamedTuple):
    """What came of one try: a text, or why there is none (`reason`).

    `failed`: the target failed, rather than said nothing; `again`, `wait`: is another try worth it, in what seconds?
    """

    text: str = ""
    reason: str | None = None
    ended: str | None = None  # the target's `finish_reason`
    model: str | None = None  # as the target calls itself
    failed: bool = False
    again: bool = True
    wait: float = 0.0


def questions(prompts: Sequence[Prompt], systems: Sequence[System]) -> list[Question]:
    """Every prompt under every system prompt; those of one prompt together, so that a run cut short has pairs."""
    return [Question(prompt, system) for prompt in prompts for system in systems]


async def ask(
    assistant: Assistant, asked: Sequence[Question], asking: Asking, patience: Patience, kept: Kept, *,
    scripted: bool = False, on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Row]:  # fmt: skip
    """The rows of `asked`, in order. `scripted`: the rows say that no real assistant stood behind the target."""
    keys = [question.key(asking) for question in asked]
    left = [(key, question) for key, question in zip(keys, asked, strict=True)
            if kept.rows.get(key, {}).get("status") != ANSWERED]  # fmt: skip
    done, coming, about = len(asked) - len(left), iter(left), {"asking": asdict(asking), "scripted": scripted}
    patient = _Patient(assistant, asking, patience)

    async def work() -> None:
        nonlocal done
        for key, question in coming:
            kept.add({"key": key, **question.row(), **about, **await patient.outcome(question)})
            done += 1
            on_progress(done, len(asked))

    try:
        await asyncio.gather(*(work() for _ in range(patience.concurrency)))
    finally:
        await assistant.close()
    # one text may go by two names
    return [{**kept.rows[key], **question.row()} for key, question in zip(keys, asked, strict=True)]


class _Patient:
    """Tries, and tries again; all workers wait when the target asks for it."""

    def __init__(self, assistant: Assistant, asking: Asking, patience: Patience) -> None:
        self._assistant, self._asking, self._patience = assistant, asking, patience
        self._not_before = 0.0
        self._failed = 0  # questions in a row

    async def outcome(self, question: Question) -> Row:
        """What came of a question after all tries: the columns of a row behind the question's own."""
        if self._failed >= GIVE_UP:
            return _outcome(Said(reason=NOT_ASKED), [])
        failures: list[str] = []
        for attempt in range(self._patience.retries + 1):
            await asyncio.sleep(self._not_before - time.monotonic())
            said = await self._try(question)
            if said.reason is None:
                self._failed = 0
                return _outcome(said, failures)
            failures.append(said.reason)
            if not said.again or attempt == self._patience.retries:
                break
            self._not_before = max(self._not_before, time.monotonic() + min(said.wait, LONGEST_PAUSE))
            if said.failed:
                await asyncio.sleep(min(self._patience.pause * 2**attempt, LONGEST_PAUSE))
        self._failed = self._failed + 1 if said.failed else 0
        return _outcome(said, failures)

    async def _try(self, question: Question) -> Said:
        asking = self._asking
        body: dict[str, Any] = {
            "messages": question.messages(), "temperature": asking.temperature, "max_tokens": asking.max_tokens,
            **({"seed": asking.seed} if asking.temperature else {}),  # else it changes nothing, and some refuse it
            **({"model": asking.model} if asking.model else {}),
        }  # fmt: skip
        try:
            async with asyncio.timeout(self._patience.seconds):
                if asking.stream:
                    return said([part async for part in self._assistant.stream(body)])
                return said([await self._assistant.complete(body)])
        except TimeoutError:
            return Said(reason="The assistant did not answer in time.", failed=True)
        except GuardError as error:
            return _failure(error)


def said(replies: Sequence[dict[str, Any]]) -> Said:
    """The text of a completion, or of the chunks of one; OpenAI's `refusal` is text like any other.

    Raises `AssistantFailed` for what has another form.

    >>> said([{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}]).text
    '4'
    >>> said([{"choices": [{"delta": {"content": "..."}}]}]).reason
    'wordless: neither a letter nor a digit'
    """
    text, ended, model = "", None, None
    for reply in replies:
        model = reply.get("model") or model
        for choice in reply["choices"][:1]:
            message = choice.get("message", choice.get("delta")) if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                raise AssistantFailed("The assistant's answer has no message.")
            parts = [message.get("content"), message.get("refusal")]
            if any(part is not None and not isinstance(part, str) for part in parts):
                raise AssistantFailed("The assistant's answer is not text.")
            text += "".join(filter(None, parts))
            ended = choice.get("finish_reason") or ended
    reason = None
    if not any(map(str.isalnum, text)):
        reason = "wordless: neither a letter nor a digit" if text.strip() else "empty"
        reason += ", filtered by the target" if ended == "content_filter" else ""
    ended, model = (found if isinstance(found, str) else None for found in (ended, model))
    return Said(text, reason, ended, model)


def _failure(error: GuardError) -> Said:
    """Why there is no answer. Reasons are counted, so they quote nothing but a status."""
    response = error.__cause__.response if isinstance(error.__cause__, httpx.HTTPStatusError) else None
    if response is None:
        return Said(reason=error.message, failed=True, again=not isinstance(error, InputError))
    status = response.status_code
    return Said(
        reason=f"status {status}", failed=True, again=status >= 500 or status in _PASSING,
        wait=_seconds(response.headers.get("retry-after", "")),
    )  # fmt: skip


def _seconds(retry_after: str) -> float:
    """What a Retry-After asks for (RFC 9110, section 10.2.3: seconds or a date); 0 for what is neither.

    >>> _seconds("7"), _seconds("soon"), _seconds("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, 0.0, 0.0)
    """
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _outcome(said: Said, failures: list[str]) -> Row:
    """`failures`: the reasons of all tries that failed."""
    return {
        "status": UNANSWERED if said.reason else ANSWERED, "answer": said.text, "reason": said.reason,
        "ended": said.ended, "model": said.model, "failures": failures,
    }  # fmt: skip
