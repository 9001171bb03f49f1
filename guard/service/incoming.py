"""Reading a request: its body, its JSON, its fields, and whether its client is still there.

The one rule: whatever a client sends, the outcome is a value or an `InputError`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from guard.errors import InvalidRequest, PayloadTooLarge

Name = Annotated[str, Field(max_length=64)]  # of a model, a policy, a category

_T = TypeVar("_T")
_Shape = TypeVar("_Shape", bound=BaseModel)

_OVERRUN = 64 * 2**20  # bytes of a body too large that are still read, and thrown away
_OVERRUN_SECONDS = 5.0


async def read_body(request: Request, limit_mb: float) -> bytes:
    """The whole body. Raises `PayloadTooLarge`, with or without a Content-Length."""
    limit = int(limit_mb * 2**20)
    body = bytearray()
    chunks = request.stream()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            # Closing on a client that still sends would take the answer away from it.
            received = 0
            try:
                async with asyncio.timeout(_OVERRUN_SECONDS):
                    async for chunk in chunks:
                        received += len(chunk)
                        if received > _OVERRUN:
                            break
            except TimeoutError:
                pass
            raise PayloadTooLarge(f"The body is larger than {limit_mb:g} MB.", hint="Send several requests.")
    return bytes(body)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Stricter than `json.loads`: no NaN, no key twice. Raises `InvalidRequest`."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as cause:
        raise InvalidRequest("The body is not UTF-8.", hint=f"See byte {cause.start}.") from None
    except json.JSONDecodeError as cause:
        raise InvalidRequest("The body is not JSON.", hint=f"See line {cause.lineno}, column {cause.colno}.") from None
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        raise InvalidRequest("The body's JSON is too deep or its numbers are too long.") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body is not a JSON object.", hint='Send {"input": "..."}.')
    return found


def read_shape(shape: type[_Shape], data: dict[str, Any], within: str = "") -> _Shape:
    """The fields of a request, or of what stands `within` one. Raises `InvalidRequest` that names the first wrong."""
    try:
        return shape.model_validate(data)
    except ValidationError as cause:
        first = cause.errors(include_input=False, include_url=False)[0]
        param = ".".join([*filter(None, [within]), *map(str, first["loc"])]) or None
        raise InvalidRequest(f"{param}: {first['msg']}.", param=param) from None


def check_count(values: Sequence[Any], limit: int) -> None:
    """Raises `InvalidRequest` for an `input` that holds more than `limit` texts."""
    if len(values) > limit:
        raise InvalidRequest(f"input: a list of {len(values)}.", hint=f"Send at most {limit}.", param="input")


def body_schema(shape: type[BaseModel]) -> dict[str, Any]:
    """The request body for the OpenAPI document: the endpoints read it themselves, to be strict about it."""
    content = {"application/json": {"schema": shape.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The outcome of `work`, which is cancelled when the client hangs up. Raises `ClientDisconnect` then.

    The work is done in the caller's own task: each task more is a round of the event loop more.
    """
    try:
        async with asyncio.timeout(None) as patience:
            leaving = asyncio.create_task(_hung_up(request, patience))
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if patience.expired():
            raise ClientDisconnect from None
        raise


async def _hung_up(request: Request, patience: asyncio.Timeout) -> None:
    """End the patience when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    patience.reschedule(0.0)  # long past


def _no_constant(_: str) -> NoReturn:
    raise InvalidRequest("NaN and Infinity are not JSON.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("An object of the body has the same key twice.")
    return found
