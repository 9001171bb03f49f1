"""The guarded chat: OpenAI's `POST /v1/chat/completions`, with the judge before the assistant and behind it.

    request ──▶ judge what the user says, and what the assistant is given to read ──▶ assistant ──▶ release ──▶ reply
                     └── not acceptable: 200, no content, `content_filter`; the assistant is never asked

The one rule: a verdict is never an HTTP error and never tears a stream, which ends in its own form, with `[DONE]`.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Literal, NamedTuple, get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import JSONResponse, Response, StreamingResponse

from guard.errors import STATUS, GuardError, NotOffered, NotPermitted, Overloaded
from guard.item import Kind
from guard.keys import Key
from guard.keys import Mode as KeyMode
from guard.policy import Policy
from guard.resources import shipped
from guard.service.assistant import Assistant, Body
from guard.service.conversation import Conversation, Role
from guard.service.desk import Answer, Desk, Text
from guard.service.failures import ErrorBody, error_object
from guard.service.incoming import Name, body_schema, read_shape, unless_gone
from guard.service.openai import moderation_result
from guard.service.release import STOPPED, Guarded, Mode, Terms, empty
from guard.verdict import Decision, Verdict

_log = logging.getLogger(__name__)

_MOST_CHOICES = 8
_MESSAGES_SCHEMA: dict[str, Any] = {
    "type": "array", "minItems": 1,
    "items": {
        "type": "object", "required": ["role"],
        "properties": {"role": {"enum": list(get_args(Role))}},
    },
}  # fmt: skip


class _Side(BaseModel):
    model_config = ConfigDict(extra="ignore")

    mode: Literal["score", "block"]


class _Sides(BaseModel):
    model_config = ConfigDict(extra="ignore")

    input: _Side | None = None
    output: _Side | None = None


class _Moderation(BaseModel):
    """OpenAI's `moderation`: per side, `block` or only `score`."""

    model_config = ConfigDict(extra="ignore")

    policy: _Sides = _Sides()


class ChatRequest(BaseModel):
    """`policy`, `categories`, `moderation`, `safe_prompt` are for us; all other fields are for the assistant.

    `documents` are judged and passed on.
    """

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=256)] = "assistant"
    messages: Annotated[Any, WithJsonSchema(_MESSAGES_SCHEMA)]
    stream: bool = False
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = None
    documents: Annotated[list[Any], Field(max_length=1024)] | None = None
    safe_prompt: bool | None = None
    moderation: _Moderation | None = None
    policy: Name | None = None
    categories: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None

    def side(self, name: Literal["input", "output"]) -> str | None:
        """What the request wants of a side: `score`, `block`, or nothing."""
        found: _Side | None = getattr(self.moderation.policy, name) if self.moderation else None
        return found.mode if found else None

    def for_assistant(self, messages: list[Body]) -> Body:
        """The body that the assistant gets."""
        ours = {"safe_prompt", "moderation", "policy", "categories"}
        return {**self.model_dump(exclude_unset=True, exclude=ours), "messages": messages}


class Judged(NamedTuple):
    """The input of a chat as it was judged: what is new in it, the answers about that, and which of the user's turns
    do not count, because they were stopped before."""

    texts: list[Text]
    answers: list[Answer]
    stopped: list[bool]

    @property
    def blocked(self) -> bool:
        return any(answer.stopped for answer in self.answers)


def routes(desk: Desk, assistant: Assistant | None) -> APIRouter:
    """The endpoint, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})
    chats = _Places(desk.settings.max_chats)
    guardrail = (shipped("prompts") / "system" / "guardrail.txt").read_text(encoding="utf-8").strip()

    @router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
    @router.post("/openai/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        data = await desk.read(request)
        asked = read_shape(ChatRequest, data)
        if assistant is None:
            raise NotOffered("No assistant stands behind this service.", hint="Set `assistant`.")
        conversation = Conversation(asked.messages, asked.documents, desk.settings.max_inputs)
        policy, categories = desk.bound(request, asked.policy, desk.settings.service_policy, asked.categories)
        for_answers = desk.moderator.policies.get(policy).narrowed(categories, Kind.ANSWER)  # wrong before all work
        score_input, mode = _modes(request, asked, Mode(desk.settings.release))
        chats.check()
        judged = await judge_input(desk, request, conversation, policy, categories)
        if judged.blocked and not score_input:
            _log.info("%s chat blocked=input", request.state.request_id)
            return _blocked(asked, _told(judged.answers))
        stopped = [False] * len(judged.stopped) if score_input else judged.stopped
        messages = conversation.without(stopped)
        if desk.settings.safe_prompt if asked.safe_prompt is None else asked.safe_prompt:
            messages = safe(messages, guardrail)
        key: Key = request.state.key
        terms = Terms(for_answers, conversation.prompt(stopped), mode, desk.settings.release_tokens, key.fail)
        guarded = Guarded(desk.moderator, terms, asked.n or 1)
        body = asked.for_assistant(messages)
        if not asked.stream:
            with chats.taken(), _closed(guarded, request):
                reply = await unless_gone(request, _whole(assistant, body, guarded))
                return JSONResponse(
                    {**reply, "moderation": {"input": _told(judged.answers), "output": _found(guarded)}}
                )
        coming = assistant.stream(body)
        events = _events(guarded, coming, judged, request, chats)
        first = await unless_gone(request, anext(events))  # an assistant that refuses does so with a status
        return StreamingResponse(_with(first, events), media_type="text/event-stream", headers=_UNBUFFERED)

    return router


async def judge_input(
    desk: Desk, request: Request, conversation: Conversation, policy: str | Policy, categories: Sequence[str] | None
) -> Judged:
    """Judge what the user says, turn by turn and the last one in context, and what the assistant is given to read.

    Only what is new since the assistant last spoke can block: an earlier turn that is not acceptable was blocked then,
    and is left out now, so that one hit does not end the conversation. Raises what `Desk.judge` raises.
    """
    turns = conversation.prompts()
    alone = await desk.judge(request, turns, policy, categories) if turns else []
    stopped = [answer.stopped for answer in alone]
    texts, answers = turns[-1:], alone[-1:]
    more = [conversation.begun(stopped)]
    if alone and not stopped[-1]:
        more.append(conversation.in_context(stopped))
    if said := [text for text in more if text]:
        texts += said
        answers += await desk.judge(request, said, policy, categories)
    if read := conversation.read():
        texts += read
        answers += await desk.judge(request, read, desk.settings.document_policy, None)
    return Judged(texts, answers, [*stopped[:-1], False] if stopped else [])


def safe(messages: list[Body], guardrail: str) -> list[Body]:
    """The messages behind the guardrail system prompt."""
    first, *rest = messages
    if first["role"] in ("system", "developer") and isinstance(first.get("content"), str):
        return [{**first, "content": f"{guardrail}\n\n{first['content']}"}, *rest]
    return [{"role": "system", "content": guardrail}, *messages]


class _Places:
    """How many chats there may be at once."""

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    def check(self) -> None:
        """Raises `Overloaded` where no place is left."""
        if self._now >= self._most:
            raise Overloaded(f"{self._now} chats are under way.", hint="Try again later.")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A place, for as long as it lasts. Raises as `check` does."""
        self.check()
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1


@contextmanager
def _closed(guarded: Guarded, request: Request) -> Iterator[None]:
    """See the answer off: what the engine keeps goes back, and the log says how far it was judged."""
    try:
        yield
    finally:
        guarded.close()
        came, cleared = guarded.characters
        outcome = " ".join(verdict.decision.value for verdict in guarded.verdicts) or "none"
        _log.info("%s chat characters=%d judged=%d verdicts=%s", request.state.request_id, came, cleared, outcome)


async def _whole(assistant: Assistant, body: Body, guarded: Guarded) -> Body:
    return await guarded.whole(await assistant.complete(body))


async def _events(
    guarded: Guarded, chunks: AsyncGenerator[Body], judged: Judged, request: Request, chats: _Places
) -> AsyncGenerator[str]:
    """The stream as the client gets it. An error of the assistant's before the first chunk is raised."""
    begun = told = False
    with chats.taken(), _closed(guarded, request):
        try:
            async with aclosing(guarded.stream(chunks)) as released:
                async for chunk in released:
                    if guarded.ended and not told:
                        chunk["moderation"] = {"input": _told(judged.answers), "output": _found(guarded)}
                        told = True
                    yield _event(chunk)
                    begun = True
        except GuardError as error:
            if not begun:
                raise
            yield _event({"error": error_object(error).model_dump()})
        yield "data: [DONE]\n\n"


async def _with(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()


def _modes(request: Request, asked: ChatRequest, release: Mode) -> tuple[bool, Mode]:
    """Is the input only scored, and how is the output released? Raises `NotPermitted` for less than the key demands."""
    key: Key = request.state.key
    if key.mode is KeyMode.SHADOW:
        return True, Mode.SCORE
    into, out = asked.side("input"), asked.side("output")
    if "score" in (into, out) and not key.anonymous:
        raise NotPermitted(
            "The key demands that chats are guarded.", hint="Leave `moderation` out.", param="moderation"
        )
    if out == "score":
        release = Mode.SCORE
    elif out == "block" and release is Mode.SCORE:
        release = Mode.HOLD
    return into == "score", release


def _blocked(asked: ChatRequest, told: Body) -> Response:
    """The reply to an input that is not acceptable."""
    nothing: Body = {"type": "moderation_results", "model": told.get("model", ""), "results": []}
    frame: Body = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
    verdicts = {"input": told, "output": nothing}
    if not asked.stream:
        choice: Body = {"index": 0, "message": empty(), "logprobs": None, "finish_reason": STOPPED}
        usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
        return JSONResponse(
            {**frame, "object": "chat.completion", "choices": [choice], "usage": usage, "moderation": verdicts}
        )
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": STOPPED}
    chunk = {**frame, "object": "chat.completion.chunk", "choices": [choice], "moderation": verdicts}
    return StreamingResponse(
        iter([_event(chunk), "data: [DONE]\n\n"]), media_type="text/event-stream", headers=_UNBUFFERED
    )


def _found(guarded: Guarded) -> Body:
    """What was found in an answer."""
    return _told([_answer(verdict) for verdict in guarded.verdicts])


def _answer(verdict: Verdict) -> Answer:
    """Without the passage that decided: it may be what was stopped."""
    stopped = not verdict.accepted and verdict.decision is not Decision.ERROR
    shown = verdict.model_copy(update={"passage": None})
    return Answer(shown, stopped, verdict.categories, verdict.category_scores)


def _told(answers: list[Answer]) -> Body:
    """OpenAI's member: results, or why there are none."""
    for answer in answers:
        if answer.verdict.error is not None:
            error = answer.verdict.error
            return {"type": "error", "code": error.code, "message": f"{error.message} {error.hint}".rstrip()}
    model = answers[0].verdict.model if answers else ""
    results = [
        {"type": "moderation_result", "model": model, **moderation_result(answer).model_dump(mode="json")}
        for answer in answers
    ]
    return {"type": "moderation_results", "model": model, "results": results}


def _event(data: Body) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # proxies must not hold it back
