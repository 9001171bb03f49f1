"""The assistant behind the guarded chat: an OpenAI-compatible API somewhere, or a model of our own.

The one rule: what it says is an object of OpenAI's form or an `AssistantFailed`; nothing else gets past this file,
whatever the other side sends, and however long it takes.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import random
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Protocol

import httpx

from guard.engine.request import Ended, Growing, RunningEngine, Sampling
from guard.errors import AssistantFailed, AssistantRefused, EngineError, GuardError, InvalidRequest, Overloaded
from guard.loading import load_speaker
from guard.moderator import Moderator
from guard.service.conversation import Message
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from guard.writing import written

Body = dict[str, Any]

_EVENT = 2**20  # bytes of one event at most
_WHOLE = 64 * 2**20  # bytes of a whole answer at most
_CONNECT = 10.0  # seconds
_TOLD = 500  # characters of the other side's reason that are passed on
_MOST_TOKENS = 1024  # that our own model says unless it is asked for fewer


class Assistant(Protocol):
    """Answers to chat completion requests, as dictionaries of OpenAI's form. Both raise `AssistantFailed`,
    `AssistantRefused` and `Overloaded`."""

    async def complete(self, body: Body) -> Body:
        """A whole `chat.completion`."""
        ...

    def stream(self, body: Body) -> AsyncGenerator[Body]:
        """Its `chat.completion.chunk`s, as they come. Closing it ends the work."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class RemoteAssistant:
    """Any OpenAI-compatible API: vLLM, llama.cpp's server, Ollama, a vendor."""

    def __init__(self, url: str, key: str | None, seconds: float) -> None:
        """`url` ends before `/chat/completions`; `seconds`: without a byte for so long, it has failed."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Timeout(seconds, connect=min(_CONNECT, seconds))
        self._client = httpx.AsyncClient(base_url=url.rstrip("/") + "/", headers=headers, timeout=limits)

    async def complete(self, body: Body) -> Body:
        async with self._asked({**body, "stream": False}) as response:
            whole = bytearray()
            async for part in response.aiter_bytes():
                whole += part
                if len(whole) > _WHOLE:
                    raise AssistantFailed("The assistant's answer is too long.")
        return _object(bytes(whole).decode("utf-8", "replace"))

    async def stream(self, body: Body) -> AsyncGenerator[Body]:
        asked = self._asked({**body, "stream": True})
        async with asked as response, aclosing(events(response.aiter_bytes())) as coming:
            async for data in coming:
                if data == "[DONE]":
                    return
                yield _object(data)
        raise AssistantFailed("The assistant's answer broke off.")

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def _asked(self, body: Body) -> AsyncIterator[httpx.Response]:
        """An answer that has begun well."""
        try:
            async with self._client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    status = httpx.HTTPStatusError("", request=response.request, response=response)
                    raise await _refusal(response) from status  # for who may want its status or its Retry-After
                yield response
        except httpx.TimeoutException as cause:
            raise AssistantFailed("The assistant did not answer in time.", hint="Try again.") from cause
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as cause:
            raise AssistantFailed(f"The assistant cannot be reached: {type(cause).__name__}.") from cause


class LocalAssistant:
    """A model of our own, through `generate`. It reads texts only: tools are not offered."""

    def __init__(self, engine: RunningEngine[Any], tokenizer: Tokenizer) -> None:
        self._engine, self._tokenizer = engine, tokenizer

    async def complete(self, body: Body) -> Body:
        text, last = "", {}
        async with aclosing(self.stream({**body, "stream_options": {"include_usage": True}})) as coming:
            async for last in coming:
                for choice in last["choices"]:
                    text += choice["delta"].get("content", "")
                    ended = choice["finish_reason"]
        message = {"role": "assistant", "content": text, "refusal": None}
        choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": ended}]
        return {**last, "object": "chat.completion", "choices": choices}

    async def stream(self, body: Body) -> AsyncGenerator[Body]:
        prompt, sampling, stops = self._asked(body)
        growing = self._engine.generate(prompt, sampling)
        frame: Body = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time()),
            "model": body.get("model", "guard"),
        }  # fmt: skip
        yield {**frame, "choices": [_choice({"role": "assistant", "content": ""})]}
        async with aclosing(_written(growing, self._tokenizer, stops)) as parts:
            async for part in parts:
                yield {**frame, "choices": [_choice({"content": part})]}
        ended = "length" if growing.ended is Ended.LENGTH else "stop"
        yield {**frame, "choices": [_choice({}, ended)]}
        if (body.get("stream_options") or {}).get("include_usage"):
            said = len(growing.tokens)
            usage = {
                "prompt_tokens": len(prompt), "completion_tokens": said, "total_tokens": len(prompt) + said
            }  # fmt: skip
            yield {**frame, "choices": [], "usage": usage}

    async def close(self) -> None:
        """Nothing is held between answers."""

    def _asked(self, body: Body) -> tuple[tuple[int, ...], Sampling, list[str]]:
        """Raises `InvalidRequest` for fields that are wrong, or that this assistant cannot do."""
        for name in ("tools", "functions", "response_format", "logprobs"):
            if body.get(name) and body[name] != {"type": "text"}:
                raise InvalidRequest(f"{name}: this assistant does not do that.", param=name)
        if _number(body, "n", 1) != 1:
            raise InvalidRequest("n: this assistant gives one answer.", param="n")
        messages = [Message.model_validate(message) for message in body["messages"]]
        told = [(_role(m.role), m.text("messages")) for m in messages]
        most = _number(body, "max_completion_tokens", _number(body, "max_tokens", _MOST_TOKENS))
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise InvalidRequest("stop: neither a string nor a list of them.", param="stop")
        try:
            sampling = Sampling(
                max_tokens=int(most), temperature=_number(body, "temperature", 1.0),
                top_p=_number(body, "top_p", 1.0), seed=int(_number(body, "seed", random.getrandbits(62))),
                stops=frozenset([self._tokenizer.terminator]),
            )  # fmt: skip
        except EngineError as cause:
            raise InvalidRequest(cause.message) from cause
        return tuple(self._tokenizer.chat(_merged(told))), sampling, stops


def assistant_of(settings: Settings, moderator: Moderator) -> Assistant | None:
    """The assistant that the settings name. Raises `ModelUnavailable`."""
    if settings.assistant is None:
        return None
    if settings.assistant.startswith(("http://", "https://")):
        key = settings.assistant_key.get_secret_value() if settings.assistant_key else None
        return RemoteAssistant(settings.assistant, key, settings.assistant_seconds)
    return LocalAssistant(*load_speaker(settings, moderator))


async def events(parts: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The data of server-sent events (HTML standard, section 9.2.6). Raises `AssistantFailed` for what is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = ""
    data: list[str] = []
    async for part in parts:
        try:
            held += decoder.decode(part)
        except UnicodeDecodeError as cause:
            raise AssistantFailed("The assistant's answer is not UTF-8.") from cause
        *lines, held = held.replace("\r\n", "\n").split("\n")
        for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []
        if len(held) + sum(map(len, data)) > _EVENT:
            raise AssistantFailed("One event of the assistant's answer is too long.")
    if held.startswith("data:"):  # the last line may lack its end
        data.append(held[5:].removeprefix(" "))
    if data:
        yield "\n".join(data)


async def _written(growing: Growing, tokenizer: Tokenizer, stops: list[str]) -> AsyncGenerator[str]:
    """What a text that grows in other threads adds, part by part."""
    loop = asyncio.get_running_loop()
    coming: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def tell(what: str | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(coming.put_nowait, what)

    def read() -> None:
        try:
            for part in written(growing, tokenizer.decode, stops):
                tell(part)
            tell(None)
        except BaseException as error:
            tell(error)

    threading.Thread(target=read, name="guard-assistant", daemon=True).start()  # the loop's own few are for judging
    try:
        while isinstance(part := await coming.get(), str):
            yield part
        if part is not None:
            raise AssistantFailed(f"The assistant failed: {type(part).__name__}.") from part
    finally:
        growing.cancel()


async def _refusal(response: httpx.Response) -> GuardError:
    """The error of an answer that is none."""
    status = response.status_code
    if status == 429:
        return Overloaded("The assistant is busy.", hint="Try again later.")
    if status in (400, 404, 413, 422):  # about the request, so whoever made it may read why
        body = (await response.aread())[:_EVENT]
        return AssistantRefused(f"The assistant does not take this request: {_reason(body)}")
    return AssistantFailed(f"The assistant answered with status {status}.")


def _reason(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        told = error["message"] if isinstance(error, Mapping) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it does not say why."
    return str(told)[:_TOLD]


def _object(data: str) -> Body:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise AssistantFailed("The assistant's answer is not JSON.") from cause
    if not isinstance(found, dict) or not isinstance(found.get("choices"), list):
        raise AssistantFailed("The assistant's answer has no choices.")
    return found


def _choice(delta: Body, ended: str | None = None) -> Body:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}


def _number(body: Body, name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name}: not a number.", param=name)
    return value


def _role(role: str) -> str:
    """Chat formats of models know three."""
    return {"developer": "system", "tool": "user", "function": "user"}.get(role, role)


def _merged(told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one role as one message, because most chat formats want the roles to take turns."""
    merged: list[tuple[str, str]] = []
    for role, text in told:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n\n{text}")
        else:
            merged.append((role, text))
    return merged
