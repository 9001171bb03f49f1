"""Any exception → status and the error object of OpenAI's API.

The one rule: all four keys, always, and nothing in them that a user wrote into a text or that a traceback holds.
"""

from __future__ import annotations

import logging

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from guard.errors import (
    STATUS,
    EngineError,
    GuardError,
    MethodNotAllowed,
    Overloaded,
    RateLimited,
    Unauthorized,
    UnknownPath,
    described,
)

_log = logging.getLogger(__name__)


class ErrorObject(BaseModel):
    """What was wrong (`message`), of which sort (`type`, `code`), and in which field (`param`)."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not 200."""

    error: ErrorObject


def failed(error: Exception, retry_after: int = 1) -> JSONResponse:
    """The answer to a request that met `error`."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers |= error.headers or {}
        error = _from_router(error)
    if isinstance(error, GuardError):
        status, _ = STATUS.get(type(error), STATUS[EngineError])
        told = error_object(error)
    else:
        _log.error("internal error: %s", described(error))
        status = 500
        told = ErrorObject(message="The service failed.", type=_type(status), code="internal_error")
    if isinstance(error, Overloaded):
        told.code = RateLimited.code  # what OpenAI's clients look for
        headers["Retry-After"] = str(retry_after)
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="guard"'  # Google's client breaks on one without a parameter
    return JSONResponse(ErrorBody(error=told).model_dump(), status, headers)


def error_object(error: GuardError) -> ErrorObject:
    """What is told of an error of ours."""
    status, _ = STATUS.get(type(error), STATUS[EngineError])
    return ErrorObject(message=str(error), type=_type(status), param=error.param, code=error.code)


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


def _from_router(error: HTTPException) -> Exception:
    if error.status_code == 404:
        return UnknownPath("There is no such path.", hint="See docs/http.md for those that exist.")
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take that method.", hint="See the Allow header.")
    return error
