"""The path that OpenAI and Mistral share: which of the two a request means.

The one rule: by `model`, and a missing one means OpenAI (LibreChat, for one, sends none). Prefixes say it outright.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from guard.errors import STATUS
from guard.service import mistral, openai
from guard.service.desk import Desk
from guard.service.failures import ErrorBody
from guard.service.incoming import body_schema


def routes(desk: Desk) -> APIRouter:
    """The endpoints, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})

    @router.post("/openai/v1/moderations", openapi_extra=body_schema(openai.ModerationRequest))
    async def of_openai(request: Request) -> openai.ModerationResponse:
        data = await desk.read(request)
        return await openai.moderated(desk, request, data)

    @router.post("/mistral/v1/moderations", openapi_extra=body_schema(mistral.ModerationRequest))
    async def of_mistral(request: Request) -> mistral.ModerationResponse:
        data = await desk.read(request)
        return await mistral.moderated(desk, request, data)

    @router.post("/v1/moderations", openapi_extra=body_schema(openai.ModerationRequest))
    async def of_either(request: Request) -> openai.ModerationResponse | mistral.ModerationResponse:
        data = await desk.read(request)
        if str(data.get("model")).startswith(mistral.MODELS):
            return await mistral.moderated(desk, request, data)
        return await openai.moderated(desk, request, data)

    return router
