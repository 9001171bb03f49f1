"""Around every answer: OpenAI's headers, one log line, and an error object for whatever nobody caught.

The one rule: ids, lengths and outcomes are logged, never bodies.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guard.errors import NotReady
from guard.service.failures import failed

_log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """ASGI middleware; the outermost one, so that the framework's own error pages never show."""

    def __init__(self, app: ASGIApp, retry_after: Callable[[], int]) -> None:
        self._app = app
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope).get("x-client-request-id", ""))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        told: dict[str, str] = {}
        state["headers"] = told  # what those within have to say on the answer, be it an error's
        said: list[str] = []
        state["log"] = said  # and on the log's line, which is written when the client has its answer
        status = 0  # none sent yet

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
                headers["openai-version"] = "2020-10-01"
                headers.update(told)
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except asyncio.CancelledError:  # the server stops and its patience has ended
            if not status:
                await failed(NotReady("The service stops.", hint="Try again."))(scope, receive, stamped)
            raise
        except Exception as error:
            if status:
                raise
            await failed(error, self._retry_after())(scope, receive, stamped)
        finally:
            path = getattr(scope.get("route"), "path", "-")  # the route's: what stands in a URL is the client's
            elapsed = 1000 * (time.perf_counter() - started)
            line = f"{request_id} {scope['method']} {path} {status or 'gone'} {elapsed:.0f}ms"
            _log.info("%s", " ".join([line, *said]))


def _request_id(wanted: str) -> str:
    return wanted if _SANE_ID.fullmatch(wanted) else f"req_{uuid.uuid4().hex}"
