"""The gate: who asks, and may they ask once more? Decided before a body is read.

The one rule: behind it every request has a key in its state, if only the anonymous one of a service without keys.
"""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from guard.errors import GuardError, InvalidSettings, NotReady, Unauthorized, described
from guard.keys import Key, KeyBook
from guard.service import perspective
from guard.service.allowance import Allowance, Limits

_log = logging.getLogger(__name__)

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class Gate:
    """ASGI middleware, within the envelope.

    A secret comes as `Authorization: Bearer SECRET`, as `x-api-key: SECRET`, or, from Google's clients, in the query as
    `key`; the first of these that is there counts. Without a book of keys everybody is `default`. Paths that `exempt`
    matches as a whole are open. The request's state then holds `key` and `allowance`. Limits are those of this process.
    """

    def __init__(self, app: ASGIApp, book: KeyBook | None, default: Key, exempt: re.Pattern[str]) -> None:
        self._app = app
        self._book = book
        self._default = default
        self._exempt = exempt
        self._limits: dict[str, Limits] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._exempt.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        try:
            state["key"] = key = self._default if self._book is None else _known(self._book, scope)
            if key.id not in self._limits:
                self._limits[key.id] = Limits(key)
            state["allowance"] = allowance = Allowance(self._limits[key.id], state["headers"])
            allowance.take_request()
        except GuardError as error:
            if not scope["path"].startswith(perspective.ROOT):
                raise
            await perspective.failed_as_google(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _known(book: KeyBook, scope: Scope) -> Key:
    """Raises `Unauthorized`, and `NotReady` where the file of keys has gone bad."""
    secret = _secret(scope)
    if secret is None:
        raise Unauthorized("A key is needed.", hint="Send it as `Authorization: Bearer KEY`.")
    try:
        key = book.find(secret)  # a tenth of a millisecond, and readers never wait: not worth a thread
    except InvalidSettings as cause:
        _log.error("the keys cannot be read: %s", described(cause.__cause__ or cause))
        raise NotReady("The keys cannot be read.", hint="See the service's log.") from cause
    if key is None:
        raise Unauthorized("The key is not known, or no more.", hint="Ask the operator for one.")
    return key


def _secret(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    bearer = _BEARER.fullmatch(headers.get("authorization", ""))
    if bearer:
        return bearer[1]
    if "x-api-key" in headers:
        return headers["x-api-key"]
    return QueryParams(scope["query_string"]).get("key")
