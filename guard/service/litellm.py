"""LiteLLM's generic guardrail hook: the proxy asks before a model is called and after it has answered.

The one rule: a verdict is always 200; whatever else comes back counts as a failed guardrail, which LiteLLM blocks
unless it is told otherwise. So a text that nobody judged is never `NONE`, but where the key lets it pass.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from guard.errors import STATUS, InvalidRequest
from guard.item import Kind
from guard.service.desk import Desk, Text
from guard.service.failures import ErrorBody
from guard.service.incoming import Name, body_schema, check_count, read_shape
from guard.verdict import Verdict

PATH = "/beta/litellm_basic_guardrail_api"


class Chosen(BaseModel):
    """What `additional_provider_specific_params` may choose."""

    model_config = ConfigDict(extra="ignore")

    policy: Name | None = None
    categories: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None


class GuardrailRequest(BaseModel):
    """The fields that are read; nulls and unknown fields are fine."""

    model_config = ConfigDict(extra="ignore")

    input_type: Literal["request", "response"]
    texts: list[str | None] | None = None
    images: list[Any] | None = None
    tool_calls: list[Any] | None = None
    additional_provider_specific_params: Chosen | None = None

    def to_judge(self, limit: int) -> list[Text]:
        """The texts and the arguments of tool calls that say something. Raises `InvalidRequest` for an image."""
        if self.images:
            raise InvalidRequest("images: images cannot be judged.", hint="Send texts alone.", param="images")
        kind = Kind.PROMPT if self.input_type == "request" else Kind.ANSWER
        found = [Text(f"texts.{i}", text, kind) for i, text in enumerate(self.texts or []) if text and text.strip()]
        for i, call in enumerate(self.tool_calls or []):
            arguments = _arguments(call)
            if arguments.strip():
                found.append(Text(f"tool_calls.{i}", arguments, kind))
        check_count(found, limit)
        return found


class GuardrailResponse(BaseModel):
    """`guard` holds the verdicts, in the order of the texts that say something."""

    action: Literal["NONE", "BLOCKED"]
    blocked_reason: str | None = None
    guard: list[Verdict]


def routes(desk: Desk) -> APIRouter:
    """The endpoint, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})

    @router.post(PATH, openapi_extra=body_schema(GuardrailRequest))
    async def guardrail(request: Request) -> GuardrailResponse:
        data = await desk.read(request)
        asked = read_shape(GuardrailRequest, data)
        chosen = asked.additional_provider_specific_params or Chosen()
        default = desk.settings.service_policy
        policy, categories = desk.bound(request, chosen.policy, default, chosen.categories)
        desk.moderator.policies.get(policy)  # wrong even where there is nothing to judge
        texts = asked.to_judge(desk.settings.max_inputs)
        answers = await desk.judge(request, texts, policy, categories) if texts else []
        stopped = [answer.verdict for answer in answers if answer.stopped]
        return GuardrailResponse(
            action="BLOCKED" if stopped else "NONE", blocked_reason=_reason(stopped[0]) if stopped else None,
            guard=[answer.verdict for answer in answers],
        )  # fmt: skip

    return router


def _arguments(call: Any) -> str:
    """What a tool is called with; a call may lack its function."""
    match call:
        case {"function": {"arguments": str(arguments)}}:
            return arguments
    return ""


def _reason(verdict: Verdict) -> str:
    """Without a word of the text."""
    what = ", ".join(verdict.categories) or "not acceptable"
    score = "" if verdict.score is None else f" ({verdict.score:.2f})"
    return f"{what}{score} under the policy {verdict.policy}"
