"""SGLang's scoring endpoint: how probable each of some tokens is behind a query and each of some items.

The one rule: the model reads what the caller wrote and nothing else. There is no policy, no prompt and no calibration
here, so these numbers are no verdicts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from guard.engine.request import Ids, LogProbs, Request
from guard.errors import STATUS, GuardError, InvalidRequest, NotPermitted
from guard.moderator import Moderator
from guard.service.desk import Desk
from guard.service.failures import ErrorBody
from guard.service.incoming import body_schema, read_shape, unless_gone

_log = logging.getLogger(__name__)

_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_QUERY_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, _IDS]}
_ITEMS_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, _TEXTS, {"type": "array", "items": _IDS}]}


class ScoringRequest(BaseModel):
    """SGLang's fields; others are ignored. `model` is not looked at and comes back as it is."""

    model_config = ConfigDict(extra="ignore", strict=True)

    query: Annotated[Any, WithJsonSchema(_QUERY_SCHEMA)]
    items: Annotated[Any, WithJsonSchema(_ITEMS_SCHEMA)]
    label_token_ids: Annotated[Any, WithJsonSchema(_IDS)]
    apply_softmax: bool = False
    item_first: bool = False
    model: str = "default"

    def named_items(self, limit: int) -> list[tuple[str, Any]]:
        """Each item with its place in the request. Raises `InvalidRequest` for more than `limit`."""
        if isinstance(self.items, str):
            return [("items", self.items)]
        if not isinstance(self.items, list):
            raise InvalidRequest("items: neither a string nor a list.", param="items")
        if len(self.items) > limit:
            raise InvalidRequest(f"items: a list of {len(self.items)}.", hint=f"Send at most {limit}.", param="items")
        return [(f"items.{i}", item) for i, item in enumerate(self.items)]


class Usage(BaseModel):
    """Tokens read, the query's once for each item, as SGLang counts them. None are generated."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ScoringResponse(BaseModel):
    """Of each item one number for each label."""

    scores: list[list[float]]
    model: str
    usage: Usage
    object: Literal["scoring"] = "scoring"


def routes(desk: Desk) -> APIRouter:
    """The endpoint, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})

    @router.post("/v1/score", openapi_extra=body_schema(ScoringRequest))
    async def score(request: HTTPRequest) -> ScoringResponse:
        key = request.state.key
        if key.policy is not None or key.categories is not None:
            raise NotPermitted("The key is for judging under its policy.", hint="Ask the operator for another one.")
        asked = read_shape(ScoringRequest, await desk.read(request))
        items = asked.named_items(desk.settings.max_inputs)
        # long texts take the tokenizer long, and whoever else is served must not wait for that
        requests = await asyncio.to_thread(_requests, desk.moderator, asked, items)
        read = sum(len(segment) for each in requests for segment in each.segments)
        request.state.allowance.take_tokens(read)
        answers = await unless_gone(request, _answered(desk, requests))
        _log.info("%s key=%s scored=%d tokens=%d", request.state.request_id, key.id, len(requests), read)
        return ScoringResponse(
            scores=[
                _scores(answer, name, asked.apply_softmax) for answer, (name, _) in zip(answers, items, strict=True)
            ],
            model=asked.model,
            usage=Usage(prompt_tokens=read, total_tokens=read),
        )

    return router


async def _answered(desk: Desk, requests: Sequence[Request]) -> list[LogProbs | GuardError]:
    await desk.ready()
    return await desk.scoring.submit(requests, param="items")


def _requests(moderator: Moderator, asked: ScoringRequest, items: Sequence[tuple[str, Any]]) -> list[Request]:
    """One for each item; what comes first is what the engine keeps. Raises `InvalidRequest`."""
    vocabulary, most = moderator.engine.vocab_size, moderator.engine.max_tokens
    terminator = moderator.tokenizer.terminator  # no label of one token begins another one, so it is never read
    labels = _token_ids(asked.label_token_ids, "label_token_ids", vocabulary)
    if len(set(labels)) < len(labels):
        raise InvalidRequest("label_token_ids: an id stands there twice.", param="label_token_ids")
    as_text = isinstance(asked.query, str)
    query = _ids(moderator, asked.query, as_text, "query")
    found: list[Request] = []
    for name, item in items:
        ids = _ids(moderator, item, as_text, name)
        length = len(query) + len(ids) + 1
        if length > most:
            raise InvalidRequest(
                f"{name}: {length} tokens with the query and a label; the model reads {most}.",
                hint="Shorten the item or the query.",
                param=name,
            )
        segments = (ids, query) if asked.item_first else (query, ids)
        found.append(Request(segments, tuple((label,) for label in labels), terminator))
    return found


def _ids(moderator: Moderator, value: Any, as_text: bool, param: str) -> Ids:
    """The tokens of a text, or those that were sent, where the query was sent so, too."""
    if not as_text:
        return _token_ids(value, param, moderator.engine.vocab_size)
    if not isinstance(value, str):
        raise InvalidRequest(f"{param}: not a string, as the query is.", param=param)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{param}: half of a surrogate pair.", param=param) from None
    ids = tuple(moderator.tokenizer.encode(value))
    if not ids:
        raise InvalidRequest(f"{param}: empty.", param=param)
    return ids


def _token_ids(value: Any, param: str, vocabulary: int) -> Ids:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"{param}: not a list of token ids with something in it.", param=param)
    for i, id_ in enumerate(value):
        if type(id_) is not int:  # `True` is an int to isinstance
            raise InvalidRequest(f"{param}.{i}: not a token id.", param=f"{param}.{i}")
        if not 0 <= id_ < vocabulary:
            raise InvalidRequest(f"{param}.{i}: outside the vocabulary of {vocabulary}.", param=f"{param}.{i}")
    return tuple(value)


def _scores(answer: LogProbs | GuardError, param: str, softmax: bool) -> list[float]:
    """Probabilities of the labels: among themselves, or among all tokens. Raises what kept them from being found."""
    if isinstance(answer, GuardError):
        answer.param = param
        raise answer
    if not softmax:
        return [math.exp(value) for value in answer]
    highest = max(answer)  # so that not all of them are too small to be told from 0
    weights = [math.exp(value - highest) for value in answer]
    return [weight / sum(weights) for weight in weights]
