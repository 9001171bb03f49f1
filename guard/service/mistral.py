"""Mistral's moderation of texts and of conversations, in its wire form, with our verdict beside each result.

Of a conversation the last message is judged: a user's as a prompt, an assistant's as an answer to the user's message
before it. Thresholds of a request are named as in Mistral's guardrails.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from guard.errors import STATUS, InvalidRequest, UnknownModel
from guard.item import Kind
from guard.policy import Thresholds
from guard.service.desk import Answer, Desk, Text
from guard.service.failures import ErrorBody
from guard.service.incoming import Name, body_schema, check_count, read_shape
from guard.verdict import Verdict

# Mistral's models and the shipped policy with the categories of each; `latest` is still the older list.
POLICY_OF = {
    "mistral-moderation-latest": "mistral-9",
    "mistral-moderation-2411": "mistral-9",
    "mistral-moderation-2603": "mistral-11",
}
MODELS = "mistral-moderation-"  # how their names begin
Role = Literal["system", "user", "assistant", "tool"]

_MESSAGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string", "enum": ["system", "user", "assistant", "tool"]}},
}
_CONVERSATION_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": _MESSAGE_SCHEMA}
_INPUT_SCHEMA: dict[str, Any] = {
    "anyOf": [_CONVERSATION_SCHEMA, {"type": "array", "minItems": 1, "items": _CONVERSATION_SCHEMA}]
}


class Message(BaseModel):
    """A turn: its text is a string or a list of text chunks."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: Any = None

    def text(self, param: str) -> str:
        """The text. Raises `InvalidRequest` for anything else."""
        match self.content:
            case str(text):
                return text
            case [*chunks]:
                return "\n".join(_chunk(chunk, f"{param}.content.{i}") for i, chunk in enumerate(chunks))
        raise InvalidRequest(f"{param}.content: neither a string nor a list of text chunks.", param=f"{param}.content")


class _Asked(BaseModel):
    """`input` and `model` are Mistral's, and so are the names of the thresholds; `policy` and `categories` are ours;
    other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    policy: Name | None = None
    categories: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    custom_category_thresholds: dict[Name, Annotated[float, Field(ge=0, le=1)] | None] | None = None
    ignore_other_categories: bool = False

    @property
    def thresholds(self) -> Thresholds | None:
        if self.custom_category_thresholds is None:
            return None
        return Thresholds(self.custom_category_thresholds, self.ignore_other_categories)


class ModerationRequest(_Asked):
    input: str | list[str]

    def texts(self, limit: int) -> list[Text]:
        """One text, or several."""
        if isinstance(self.input, str):
            return [Text("input", self.input)]
        if not self.input:
            raise InvalidRequest("input: an empty list.", param="input")
        check_count(self.input, limit)
        return [Text(f"input.{i}", text) for i, text in enumerate(self.input)]


class ChatModerationRequest(_Asked):
    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]

    def texts(self, limit: int) -> list[Text]:
        """The last turn of each conversation: `input` is one, or a list of them."""
        if not isinstance(self.input, list) or not self.input:
            raise InvalidRequest("input: not a list with something in it.", param="input")
        if not isinstance(self.input[0], list):
            return [_last_turn(self.input, "input")]
        check_count(self.input, limit)
        return [_last_turn(conversation, f"input.{i}") for i, conversation in enumerate(self.input)]


class Result(BaseModel):
    """One text or conversation. A category is true where the verdict names it."""

    categories: dict[str, bool]
    category_scores: dict[str, float]
    guard: Verdict


class ModerationResponse(BaseModel):
    id: str
    model: str
    results: list[Result]


def routes(desk: Desk) -> APIRouter:
    """The endpoint for conversations, to be included in an application; `moderations.py` has the other one."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})

    @router.post("/v1/chat/moderations", openapi_extra=body_schema(ChatModerationRequest))
    @router.post("/mistral/v1/chat/moderations", openapi_extra=body_schema(ChatModerationRequest))
    async def chat_moderations(request: Request) -> ModerationResponse:
        data = await desk.read(request)
        return await _answer(desk, request, read_shape(ChatModerationRequest, data))

    return router


async def moderated(desk: Desk, request: Request, data: dict[str, Any]) -> ModerationResponse:
    """The answer to a body of texts."""
    return await _answer(desk, request, read_shape(ModerationRequest, data))


async def _answer(desk: Desk, request: Request, asked: ModerationRequest | ChatModerationRequest) -> ModerationResponse:
    ids = [policy.id for policy in desk.moderator.policies]
    if asked.model not in POLICY_OF and asked.model not in ids:
        known = ", ".join(sorted([*POLICY_OF, *ids]))
        raise UnknownModel(f"There is no model {asked.model!r}.", hint=f"Known here: {known}.", param="model")
    texts = asked.texts(desk.settings.max_inputs)
    default = POLICY_OF.get(asked.model)  # Mistral's clients must name a model: that chooses no policy over the key's
    named = asked.policy or (asked.model if default is None else None)
    policy, categories = desk.bound(request, named, default or asked.model, asked.categories)
    answers = await desk.judge(request, texts, policy, categories, asked.thresholds)
    return ModerationResponse(id=f"modr-{uuid.uuid4().hex}", model=asked.model, results=list(map(_result, answers)))


def _last_turn(conversation: Any, param: str) -> Text:
    if not isinstance(conversation, list) or not conversation:
        raise InvalidRequest(f"{param}: not a list of messages.", param=param)
    messages = [_message(message, f"{param}.{i}") for i, message in enumerate(conversation)]
    last, place = messages[-1], f"{param}.{len(messages) - 1}"
    text = last.text(place)
    if last.role != "assistant":
        return Text(place, text, Kind.PROMPT)
    asked = next((i for i in reversed(range(len(messages) - 1)) if messages[i].role == "user"), None)
    return Text(place, text, Kind.ANSWER, None if asked is None else messages[asked].text(f"{param}.{asked}"))


def _message(value: Any, param: str) -> Message:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param}: not a message.", param=param)
    return read_shape(Message, value, param)


def _chunk(value: Any, param: str) -> str:
    match value:
        case {"type": "text", "text": str(text)}:
            return text
    raise InvalidRequest(f"{param}: not a text chunk.", hint="Only text can be judged.", param=param)


def _result(answer: Answer) -> Result:
    return Result(
        categories={name: name in answer.named for name in answer.scores}, category_scores=answer.scores,
        guard=answer.verdict,
    )  # fmt: skip
