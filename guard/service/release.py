"""An assistant's answer, released to the user no further than the judge has read it.

    chunks of the assistant ──take──▶ channels (one per text) ──judge──▶ cleared prefixes ──release──▶ chunks to show

Every prefix that ends with a word or with a chunk is judged, as the moderation endpoints would judge it, so that an
answer is stopped at the first prefix that is not acceptable, whatever the later ones are. In the mode `hold` nothing of
that prefix's last word leaves; in `block` text leaves before it is judged, but never more than `release_tokens` of the
judge's tokens ahead of what was judged; in `score` all of it leaves, and is judged at the end.

With "a b" cleared, "c" flagged and "d" still to be judged, `hold` has released "a b"; `block` has released "a b", and
perhaps "c d", and releases nothing more.

The one rule: no text of the assistant's reaches the user but through a channel.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any, NamedTuple

from guard.errors import AssistantFailed, GuardError
from guard.item import Item, Kind
from guard.keys import Fail
from guard.moderator import Moderator
from guard.policy import Policy
from guard.running import Running
from guard.tokenizer import pieces
from guard.verdict import Decision, Verdict

Body = dict[str, Any]

STOPPED = "content_filter"  # OpenAI's finish reason for an answer that was stopped
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")  # of a message that are texts
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{0,128}")  # what tools, calls and models may be called: no room for prose
_AT_ONCE = 32  # chunks that are judged together


class Mode(StrEnum):
    """How an answer is released."""

    HOLD = "hold"
    BLOCK = "block"
    SCORE = "score"


class Terms(NamedTuple):
    """What answers are judged by, and what then happens. `policy` is narrowed to answers."""

    policy: Policy
    prompt: str | None
    mode: Mode
    ahead: int  # tokens
    fail: Fail


class Channel:
    """One text of an answer: what has come, what of it was cleared, and the verdict so far."""

    def __init__(self, moderator: Moderator, terms: Terms) -> None:
        self._moderator, self._terms = moderator, terms
        self._running = Running(moderator, Item(text="-", kind=Kind.ANSWER, prompt=terms.prompt), terms.policy)
        self._waiting: list[tuple[int, int]] = []  # the end of each prefix that is not judged, and its new tokens
        self._ends: deque[int] = deque()  # of each text that was taken in and not released
        self._sent = 0  # characters
        self.text = ""
        self.cleared = 0  # characters
        self.verdict: Verdict | None = None
        self.stopped = False

    def add(self, text: str) -> None:
        """Take in text that will be released as it comes."""
        for piece in pieces(text):
            self.text += piece
            counts = self._terms.mode is Mode.BLOCK  # nobody else asks how many
            self._waiting.append((len(self.text), len(self._moderator.tokenizer.encode(piece)) if counts else 0))
        self._ends.append(len(self.text))

    def add_whole(self, text: str) -> None:
        """Take in text that will be released as a whole: nobody sees a prefix of it."""
        self.text += text
        self._waiting = [(len(self.text), 0)]

    @property
    def may_pass(self) -> bool:
        """May the next text be released as a whole?"""
        return self._ends[0] <= self._allowed

    def release(self) -> tuple[str, bool]:
        """What may be released of the next text, and whether that is all of it."""
        end = self._ends.popleft()
        allowed = min(end, max(self._allowed, self._sent))
        text, self._sent = self.text[self._sent : allowed], max(self._sent, allowed)
        return text, allowed == end

    @property
    def _allowed(self) -> int:
        """How far the text may be released now."""
        if self._terms.mode is Mode.SCORE:
            return len(self.text)
        if self._terms.mode is Mode.HOLD or self.stopped:
            return self.cleared
        end, ahead = self.cleared, self._terms.ahead
        for place, tokens in self._waiting:
            ahead -= tokens
            if ahead < 0:
                break
            end = place
        return end

    @property
    def waits(self) -> bool:
        """Is there anything to judge?"""
        return bool(self._waiting) and not self.stopped

    def judge(self) -> None:
        """Judge what waits. Takes as long as the model does."""
        ends = [end for end, _ in self._waiting]
        self._waiting = []
        if self._terms.mode is Mode.SCORE:
            ends = ends[-1:]
        shown = [end for end in ends if not self.text[:end].isspace()]
        for end, verdict in zip(shown, self._verdicts([self.text[:end] for end in shown]), strict=True):
            self.verdict = verdict
            failed = verdict.decision is Decision.ERROR and self._terms.fail is Fail.OPEN
            if self._terms.mode is not Mode.SCORE and not verdict.accepted and not failed:
                self.stopped = True
                return
            self.cleared = end
        if ends:
            self.cleared = ends[-1]

    def prepare(self) -> None:
        """Get ready to judge, before there is anything to be judged."""
        self._running.prepare()

    def close(self) -> None:
        self._running.close()

    def _verdicts(self, texts: list[str]) -> Iterator[Verdict]:
        found = 0
        try:
            for verdict in self._running.judge(texts):
                yield verdict
                found += 1
        except GuardError as error:  # the engine, most likely
            yield from [self._moderator.failed(self._terms.policy, error)] * (len(texts) - found)


class Guarded:
    """One answer, which may have several choices, each with several texts."""

    def __init__(self, moderator: Moderator, terms: Terms, choices: int = 1) -> None:
        self._moderator, self._terms, self._expected = moderator, terms, choices
        self._channels: dict[tuple[int, str], Channel] = {}  # by choice and name
        self._ended: set[int] = set()  # choices
        self._preparing: asyncio.Task[None] | None = None  # of the text that nearly every answer has

    @property
    def ended(self) -> bool:
        """Has every choice come to its end?"""
        return len(self._ended) >= self._expected

    @property
    def verdicts(self) -> list[Verdict]:
        """The last verdict on each text, the first one that stopped it where one did."""
        return [channel.verdict for channel in self._channels.values() if channel.verdict is not None]

    @property
    def characters(self) -> tuple[int, int]:
        """Characters that came, and that were judged."""
        return (
            sum(len(channel.text) for channel in self._channels.values()),
            sum(channel.cleared for channel in self._channels.values()),
        )

    async def stream(self, chunks: AsyncGenerator[Body]) -> AsyncGenerator[Body]:
        """Chunks to show; with the last one of the last choice, `ended` is set. Raises what `chunks` raises."""
        if self._terms.mode is not Mode.SCORE:
            self._preparing = asyncio.create_task(asyncio.to_thread(self._channel((0, "content")).prepare))
        async with aclosing(_batches(chunks)) as batches:
            async for batch in batches:
                for chunk in batch:
                    self._take(chunk)
                for chunk in batch:
                    if not self._may_pass(chunk):
                        await self._judge()
                    released = self._released(chunk)
                    if released["choices"] or "usage" in released:
                        yield released
                if self._terms.mode is Mode.BLOCK:
                    await self._judge()
                    if stopped := [index for index in self._stopped() if index not in self._ended]:
                        self._ended.update(stopped)
                        frame = _frame(batch[-1], "chat.completion.chunk")
                        yield {**frame, "choices": [_end(index, {}, STOPPED) for index in stopped]}
                if self.ended and self._stopped():
                    return  # what comes is not wanted any more
        if not self.ended:
            raise AssistantFailed("The assistant's answer broke off.")

    async def whole(self, reply: Body) -> Body:
        """A reply that came at once, without what was stopped."""
        choices = self._choices(reply, "message")
        if not choices:
            raise AssistantFailed("The assistant's answer has no message.")
        for choice in choices:
            for key, text in _texts(choice, "message"):
                self._channel(key).add_whole(text)
        await self._judge()
        told = [self._message(choice) for choice in choices]
        return {**_frame(reply, "chat.completion"), "choices": told}

    def close(self) -> None:
        """Give back what the engine keeps."""
        for channel in self._channels.values():
            channel.close()

    def _channel(self, key: tuple[int, str]) -> Channel:
        if key not in self._channels:
            self._channels[key] = Channel(self._moderator, self._terms)
        return self._channels[key]

    def _choices(self, source: Body, within: str) -> list[Body]:
        """The choices that were asked for."""
        found = [c for c in source["choices"] if isinstance(c, dict) and isinstance(c.get(within), dict)]
        return [choice for choice in found if 0 <= _index(choice) < self._expected]

    def _of(self, index: int) -> list[Channel]:
        return [channel for (choice, _), channel in self._channels.items() if choice == index]

    def _stopped(self) -> list[int]:
        """The choices of which a text was stopped."""
        return sorted({choice for (choice, _), channel in self._channels.items() if channel.stopped})

    def _take(self, chunk: Body) -> None:
        for choice in self._choices(chunk, "delta"):
            for key, text in _texts(choice, "delta"):
                self._channel(key).add(text)

    def _may_pass(self, chunk: Body) -> bool:
        """Is everything judged that has to be before this chunk is shown, and at the end of a choice all of it?"""
        choices = self._choices(chunk, "delta")
        if not all(self._channels[key].may_pass for choice in choices for key, _ in _texts(choice, "delta")):
            return False
        ended = [_index(choice) for choice in choices if choice.get("finish_reason")]
        return not any(channel.waits for index in ended for channel in self._of(index))

    async def _judge(self) -> None:
        waiting = [channel for channel in self._channels.values() if channel.waits]
        if waiting and self._preparing is not None:
            await self._preparing
        if waiting:
            await asyncio.gather(*(asyncio.to_thread(channel.judge) for channel in waiting))

    def _released(self, chunk: Body) -> Body:
        choices = self._choices(chunk, "delta")
        released = [told for choice in choices if (told := self._choice(choice)) is not None]
        return {**_frame(chunk, "chat.completion.chunk"), "choices": released}

    def _choice(self, choice: Body) -> Body | None:
        """One choice of a chunk as it may be shown; None where nothing is left of it."""
        index = _index(choice)
        whole = True
        texts: dict[str, str] = {}
        for key, _ in _texts(choice, "delta"):
            texts[key[1]], all_of_it = self._channels[key].release()
            whole &= all_of_it
        delta = _shown(choice["delta"], texts, streamed=True)
        if index in self._ended:
            return None
        reason = _reason(choice)
        if not whole or (reason and index in self._stopped()):
            self._ended.add(index)
            return _end(index, delta, STOPPED)
        if choice["delta"].get("role") == "assistant":
            delta["role"] = "assistant"
        if reason:
            self._ended.add(index)
        return {**_end(index, delta, reason), "logprobs": _log_probs(choice, delta)}

    def _message(self, choice: Body) -> Body:
        index, message = _index(choice), choice["message"]
        self._ended.add(index)
        if index in self._stopped():
            return {"index": index, "message": empty(), "logprobs": None, "finish_reason": STOPPED}
        texts = {name: text for (_, name), text in _texts(choice, "message")}
        content = "" if isinstance(message.get("content"), str) else None
        told = {**empty(), "content": content, **_shown(message, texts, streamed=False)}
        reason = _reason(choice) or "stop"
        return {"index": index, "message": told, "logprobs": _log_probs(choice, told), "finish_reason": reason}


def empty() -> Body:
    """The message of an answer of which nothing is shown."""
    return {"role": "assistant", "content": "", "refusal": None}


async def _batches(chunks: AsyncGenerator[Body]) -> AsyncGenerator[list[Body]]:
    """What has come since the last look, in the order in which it came: as slow as the judge, no slower."""
    coming: asyncio.Queue[Body | BaseException | None] = asyncio.Queue(maxsize=_AT_ONCE)

    async def pump() -> None:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    await coming.put(chunk)
            await coming.put(None)
        except Exception as error:  # it belongs behind what came before it
            await coming.put(error)

    pumping = asyncio.create_task(pump())
    try:
        while True:
            found = [await coming.get()]
            while not coming.empty():
                found.append(coming.get_nowait())
            batch = [chunk for chunk in found if isinstance(chunk, dict)]
            if batch:
                yield batch
            if isinstance(found[-1], BaseException):
                raise found[-1]
            if found[-1] is None:
                return
    finally:
        # Not waited for: whoever cancels us cancels what we wait for again and again, and it has a connection to close.
        pumping.cancel()


def _end(index: int, delta: Body, reason: str | None) -> Body:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _reason(choice: Body) -> str | None:
    value = choice.get("finish_reason")
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _log_probs(choice: Body, told: Body) -> Body | None:
    """Those of the tokens that are shown; the alternatives to them are texts that nobody judged."""
    found = choice.get("logprobs")
    tokens = found.get("content") if isinstance(found, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(t, dict) and isinstance(t.get("token"), str) for t in tokens):
        return None
    if "".join(token["token"] for token in tokens) != told.get("content"):
        return None
    kept = [{"token": t["token"], "logprob": t.get("logprob"), "bytes": None, "top_logprobs": []} for t in tokens]
    return {"content": kept, "refusal": None}


def _index(choice: Body) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _texts(choice: Body, within: str) -> Iterator[tuple[tuple[int, str], str]]:
    """Every text that a user would be shown, by choice and by name: `content`, or `0.arguments` of a tool call."""
    message = choice.get(within)
    if not isinstance(message, dict):
        return
    index = _index(choice)
    for name in _TEXTS:
        if isinstance(text := message.get(name), str) and text:
            yield (index, name), text
    for number, call in _calls(message):
        if isinstance(text := call["function"].get("arguments"), str) and text:
            yield (index, f"{number}.arguments"), text


def _calls(message: Body) -> Iterator[tuple[int, Body]]:
    """Tool calls by their number; of several with one number the first."""
    calls = message.get("tool_calls")
    seen: set[int] = set()
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            number = call.get("index", place)
            number = number if isinstance(number, int) else place
            if number not in seen:
                seen.add(number)
                yield number, call


def _shown(message: Body, texts: Mapping[str, str], streamed: bool) -> Body:
    """A message or delta of these texts, each where it stood, with the names of its tool calls."""
    told: Body = {name: text for name, text in texts.items() if name in _TEXTS}
    for number, call in _calls(message):
        function = _named(call["function"], "name") | {"arguments": texts.get(f"{number}.arguments", "")}
        kept = ({"index": number} if streamed else {}) | _named(call, "id") | {"type": "function", "function": function}
        told.setdefault("tool_calls", []).append(kept)
    return told


def _named(source: Body, name: str) -> Body:
    """A name of a tool or a call, where it is one."""
    value = source.get(name)
    return {name: value} if isinstance(value, str) and _NAME.fullmatch(value) else {}


def _frame(source: Body, kind: str) -> Body:
    """What surrounds choices: of the right types, and nothing that could hold prose."""
    frame: Body = {
        "id": _named(source, "id").get("id", "chatcmpl-guard"), "object": kind,
        "created": source["created"] if isinstance(source.get("created"), int) else 0,
        "model": _named(source, "model").get("model", "assistant"),
    }  # fmt: skip
    if isinstance(source.get("usage"), dict):
        frame["usage"] = _counts(source["usage"])
    return frame


def _counts(usage: Body) -> Body:
    """Numbers, and objects of them."""
    counts = {name: _counts(n) if isinstance(n, dict) else n for name, n in usage.items() if isinstance(n, int | dict)}
    return {name: n for name, n in counts.items() if _NAME.fullmatch(name)}
