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
from guard.service.desk import Desk, Text
from guard.service.failures import ErrorBody
from guard.service.incoming import Name, body_schema, check_count, read_body, read_object, read_shape
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
    """The endpoints, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})
    ids = [policy.id for policy in desk.moderator.policies]
    models = {name: Model(id=name, created=int(time.time())) for name in (*MODELS, *ids)}

    @router.post("/v1/moderations", openapi_extra=body_schema(ModerationRequest))
    async def moderations(request: Request) -> ModerationResponse:
        body = await read_body(request, desk.settings.max_body_mb)
        asked = read_shape(ModerationRequest, read_object(body))
        model = known(asked.model or DEFAULT_MODEL)
        policy = asked.policy or (model.id if model.id in ids else desk.settings.service_policy)
        texts = asked.texts(desk.settings.max_inputs)
        verdicts = await desk.judge(request, texts, policy, asked.categories)
        return ModerationResponse(id=f"modr-{uuid.uuid4().hex}", model=model.id, results=list(map(_result, verdicts)))

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=list(models.values()))

    @router.get("/v1/models/{name}", openapi_extra=_NAME_SCHEMA)
    async def get_model(request: Request) -> Model:
        return known(request.path_params["name"])

    def known(name: str) -> Model:
        if name not in models:
            raise UnknownModel(f"There is no model {name[:64]!r}.", hint="GET /v1/models lists them.", param="model")
        return models[name]

    return router


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


def _result(verdict: Verdict) -> Result:
    """OpenAI's categories that were not asked are false with score 0; the policy's own stand beside them."""
    computed = verdict.category_scores
    scores = dict.fromkeys(CATEGORIES, 0.0) | computed
    return Result(
        flagged=not verdict.accepted,
        categories={name: name in verdict.categories for name in scores},
        category_applied_input_types={name: ["text"] if name in computed else [] for name in scores},
        category_scores=scores,
        guard=verdict,
    )


# Declared here and not as an argument: FastAPI would add a 422 that never occurs.
_NAME_SCHEMA = {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]}
