"""The HTTP application: wire formats, health, and what surrounds them.

The one rule: it is ready only when a text has really been judged and the worker still works.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

import guard
from guard.errors import STATUS, NotReady
from guard.keys import ANONYMOUS, Fail, Key, KeyBook, Mode
from guard.moderator import Moderator
from guard.service import chat, check, litellm, mistral, moderations, openai, perspective, playground, sglang
from guard.service.assistant import assistant_of
from guard.service.desk import Desk
from guard.service.envelope import Envelope
from guard.service.failures import ErrorBody, failed
from guard.service.gate import Gate
from guard.settings import Settings

# What needs no key: whether the service is well, and how to speak with it.
_OPEN = re.compile(r"/|/healthz|/readyz|/openapi\.json|/\$discovery/rest|/discovery/.*")


def create_app(moderator: Moderator, settings: Settings) -> FastAPI:
    """The service of a moderator. Its settings say how much it accepts at once, and from whom.

    Raises `InvalidSettings` for a file of keys that is none.
    """
    desk = Desk(moderator, settings)
    assistant = assistant_of(settings, moderator)
    book = None if settings.keys is None else KeyBook(settings.keys, must_exist=True)
    anonymous = Key(
        id=ANONYMOUS, name="whoever has no key", mode=Mode(settings.mode), fail=Fail(settings.fail),
        created=datetime.now(UTC),
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with desk.open():
            yield
        if assistant is not None:
            await assistant.close()
        if book is not None:
            book.close()

    app = FastAPI(
        title="guard", version=guard.__version__, lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None,  # they load scripts from elsewhere; /openapi.json stays
    )  # fmt: skip
    app.state.desk = desk
    app.add_middleware(Gate, book=book, default=anonymous, exempt=_OPEN)
    app.add_middleware(Envelope, retry_after=desk.retry_after)
    app.add_exception_handler(HTTPException, _routing_failed)
    for dialect in (moderations, openai, mistral, perspective, litellm, sglang, check):
        app.include_router(dialect.routes(desk))
    app.include_router(chat.routes(desk, assistant))
    app.include_router(playground.routes())

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
