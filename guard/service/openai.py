"""OpenAI's moderation endpoint and model list, in their exact wire form, with our verdict beside each result.

The one rule: this file knows field names only. What to judge by is the policy's business, how is the desk's.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from guard.errors import STATUS, InvalidRequest, UnknownModel
from guard.item import Kind
from guard.service.desk import Answer, Desk, Text
from guard.service.failures import ErrorBody
from guard.service.incoming import Name, check_count, read_shape
from guard.verdict import Verdict

DEFAULT_MODEL = "omni-moderation-latest"
MODELS = (DEFAULT_MODEL, "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable")

# Every result has all of these, whatever the policy: the official SDKs' types require them.
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip

_INPUT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["type", "text"]}},
    ]
}


class ModerationRequest(BaseModel):
    """`input` and `model` are OpenAI's; `policy`, `categories` and `kind` are ours; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]
    model: Name | None = None
    policy: Name | None = None
    categories: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    kind: Annotated[Kind, WithJsonSchema({"type": "string", "enum": list(Kind)})] | None = None

    def texts(self, limit: int) -> list[Text]:
        """The texts to judge: a string is one, a list of strings so many, a list of parts is one again."""
        if isinstance(self.input, str):
            return [Text("input", self.input, self.kind)]
        if not isinstance(self.input, list) or not self.input:
            raise InvalidRequest("input: neither a string nor a list with something in it.", param="input")
        check_count(self.input, limit)
        if isinstance(self.input[0], str):
            return [Text(f"input.{i}", _text(i, text), self.kind) for i, text in enumerate(self.input)]
        return [Text("input", "\n".join(_part(i, part) for i, part in enumerate(self.input)), self.kind)]


class Result(BaseModel):
    """One item. `flagged` is false only for the decision `allow`."""

    flagged: bool
    categories: dict[str, bool]
    category_applied_input_types: dict[str, list[str]]
    category_scores: dict[str, float]
    guard: Verdict


class ModerationResponse(BaseModel):
    id: str
    model: str
    results: list[Result]


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "guard"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def routes(desk: Desk) -> APIRouter:
    """The model list, to be included in an application; `moderations.py` has the other endpoint."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})
    started = int(time.time())

    @router.get("/v1/models")
    @router.get("/openai/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=[Model(id=name, created=started) for name in _models(desk)])

    @router.get("/v1/models/{name}", openapi_extra=_NAME_SCHEMA)
    @router.get("/openai/v1/models/{name}", openapi_extra=_NAME_SCHEMA)
    async def get_model(request: Request) -> Model:
        return Model(id=_known(desk, request.path_params["name"]), created=started)

    return router


async def moderated(desk: Desk, request: Request, data: dict[str, Any]) -> ModerationResponse:
    """The answer to a body."""
    asked = read_shape(ModerationRequest, data)
    model = _known(desk, asked.model or DEFAULT_MODEL)
    named = asked.policy or (None if model in MODELS else model)
    policy, categories = desk.bound(request, named, desk.settings.service_policy, asked.categories)
    answers = await desk.judge(request, asked.texts(desk.settings.max_inputs), policy, categories)
    return ModerationResponse(id=f"modr-{uuid.uuid4().hex}", model=model, results=list(map(moderation_result, answers)))


def _models(desk: Desk) -> list[str]:
    return [*MODELS, *(policy.id for policy in desk.moderator.policies)]


def _known(desk: Desk, name: str) -> str:
    if name not in _models(desk):
        raise UnknownModel(f"There is no model {name[:64]!r}.", hint="GET /v1/models lists them.", param="model")
    return name


def _text(i: int, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"input.{i}: not a string, as the others are.", param=f"input.{i}")
    return value


def _part(i: int, value: Any) -> str:
    """The text of one part of a multi-part item."""
    match value:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url"}:
            raise InvalidRequest(
                f"input.{i}: images cannot be judged.", hint="Send the text parts alone.", param=f"input.{i}"
            )
    raise InvalidRequest(f"input.{i}: neither a string nor a text part.", param=f"input.{i}")


def moderation_result(answer: Answer) -> Result:
    """OpenAI's categories that were not asked are false with score 0; the policy's own stand beside them."""
    computed = answer.scores
    scores = dict.fromkeys(CATEGORIES, 0.0) | computed
    return Result(
        flagged=answer.stopped,
        categories={name: name in answer.named for name in scores},
        category_applied_input_types={name: ["text"] if name in computed else [] for name in scores},
        category_scores=scores,
        guard=answer.verdict,
    )


# Declared here and not as an argument: FastAPI would add a 422 that never occurs.
_NAME_SCHEMA = {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]}
