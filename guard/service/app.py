"""The HTTP application: wire formats, health, and what surrounds them.

The one rule: it is ready only when a text has really been judged and the worker still works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

import guard
from guard.errors import STATUS, NotReady
from guard.moderator import Moderator
from guard.service import litellm, mistral, moderations, openai, perspective
from guard.service.desk import Desk
from guard.service.envelope import Envelope
from guard.service.failures import ErrorBody, failed
from guard.settings import Settings


def create_app(moderator: Moderator, settings: Settings) -> FastAPI:
    """The service of a moderator. Its settings say how much it accepts at once."""
    desk = Desk(moderator, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with desk.open():
            yield

    app = FastAPI(
        title="guard", version=guard.__version__, lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None,  # they load scripts from elsewhere; /openapi.json stays
    )  # fmt: skip
    app.state.desk = desk
    app.add_middleware(Envelope, retry_after=desk.batcher.retry_after)
    app.add_exception_handler(HTTPException, _routing_failed)
    for dialect in (moderations, openai, mistral, perspective, litellm):
        app.include_router(dialect.routes(desk))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", responses={STATUS[NotReady][0]: {"model": ErrorBody}})
    async def readyz() -> dict[str, str]:
        """Requests will be judged."""
        desk.check()
        return {"status": "ready"}

    return app


async def _routing_failed(_: Request, error: Exception) -> JSONResponse:
    return failed(error)
