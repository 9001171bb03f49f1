"""Perspective's comment analysis (`v1alpha1`), for clients of a service that ends in 2026; another base URL will do.

The one rule: an attribute is a sum of label probabilities of one policy, written down in `ATTRIBUTES`; what the policy
does not know is an error and never a score.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from guard.errors import STATUS, InvalidRequest, NotOffered
from guard.item import Kind
from guard.policy import Policy, load_policy
from guard.resources import shipped
from guard.service.desk import Desk, Text
from guard.service.failures import failed
from guard.service.incoming import Name, body_schema, read_shape
from guard.verdict import Verdict

ROOT = "/v1alpha1/"  # what is answered in Google's form
POLICY, PROFANITY = "forum-comments", "PROFANITY"
# Which categories of forum-comments an attribute adds up. PROFANITY is asked under a policy of its own.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "TOXICITY": ("insult", "hate", "threat"),
    "SEVERE_TOXICITY": ("hate", "threat"),
    "IDENTITY_ATTACK": ("hate",),
    "INSULT": ("insult",),
    "THREAT": ("threat",),
    "SEXUALLY_EXPLICIT": ("sexual",),
}
# Google's names of the statuses
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    405: "INVALID_ARGUMENT", 413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
}  # fmt: skip
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+(?=\s|$)|\n|$)", re.DOTALL)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextEntry(_Shape):
    text: str
    type: Literal["PLAIN_TEXT", "HTML", "TEXT_TYPE_UNSPECIFIED"] | None = None


class Context(_Shape):
    entries: list[TextEntry] = []


class Attribute(_Shape):
    scoreType: Literal["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"] | None = None
    scoreThreshold: Annotated[float, Field(ge=0, le=1)] | None = None


class AnalyzeRequest(_Shape):
    """Perspective's fields, and our `policy`. Nothing is ever stored, whatever `doNotStore` says."""

    comment: TextEntry
    requestedAttributes: Annotated[dict[Name, Attribute | None], Field(min_length=1, max_length=100)]
    context: Context | None = None
    languages: list[Name] | None = None
    doNotStore: bool | None = None
    clientToken: str | None = None
    sessionId: str | None = None
    communityId: str | None = None
    spanAnnotations: bool | None = None
    policy: Name | None = None


class SuggestRequest(_Shape):
    """What somebody says the scores should have been."""

    comment: TextEntry
    attributeScores: Annotated[dict[Name, dict[str, Any]], Field(min_length=1, max_length=100)]
    context: Context | None = None
    languages: list[Name] | None = None
    communityId: str | None = None
    clientToken: str | None = None


class SuggestResponse(BaseModel):
    clientToken: str | None = None


class Score(BaseModel):
    value: float
    type: Literal["PROBABILITY"] = "PROBABILITY"


class SpanScore(BaseModel):
    """The characters `begin` to `end` - 1."""

    begin: int
    end: int
    score: Score


class AttributeScores(BaseModel):
    summaryScore: Score
    spanScores: list[SpanScore]


class AnalyzeResponse(BaseModel):
    attributeScores: dict[str, AttributeScores]
    languages: list[str]
    clientToken: str | None = None
    guard: dict[str, Verdict]  # by policy


def routes(desk: Desk) -> APIRouter:
    """The endpoints, to be included in an application."""
    router = APIRouter(responses={status: {"model": GoogleErrorBody} for status, _ in STATUS.values()})

    @router.post(
        f"{ROOT}comments:analyze", response_model=AnalyzeResponse, response_model_exclude_none=True,
        openapi_extra=body_schema(AnalyzeRequest),
    )  # fmt: skip
    async def analyze(request: Request) -> Any:
        return await _answered(desk, lambda: _analyzed(desk, request))

    @router.post(
        f"{ROOT}comments:suggestscore", response_model=SuggestResponse, response_model_exclude_none=True,
        openapi_extra=body_schema(SuggestRequest),
    )  # fmt: skip
    async def suggest(request: Request) -> Any:
        return await _answered(desk, lambda: _suggested(desk, request))

    @router.get("/$discovery/rest", include_in_schema=False)
    async def discovery(request: Request) -> JSONResponse:
        return JSONResponse(_discovery(str(request.base_url)))

    return router


async def _analyzed(desk: Desk, request: Request) -> AnalyzeResponse:
    asked = read_shape(AnalyzeRequest, await desk.read(request))
    parent = asked.context.entries[-1].text if asked.context and asked.context.entries else None
    text = asked.comment.text
    spans = list(sentences(text)) if asked.spanAnnotations else []
    whole = (0, len(text))
    texts = [
        Text(f"comment.text[{begin}:{end}]" if (begin, end) != whole else "comment.text", text[begin:end],
             Kind.COMMENT, parent=parent)
        for begin, end in (whole, *spans)
    ]  # fmt: skip
    sums = _sums(desk, asked)
    verdicts = {
        policy: [answer.verdict for answer in await desk.judge(request, texts, policy, None)]
        for policy in dict.fromkeys(p for p, _ in sums.values())
    }
    found = {}
    for name, (policy, categories) in sums.items():
        values = [_value(verdict, categories) for verdict in verdicts[policy]]
        least = (asked.requestedAttributes[name] or Attribute()).scoreThreshold
        if least is not None and values[0] < least:
            continue
        scored = zip(spans, values[1:], strict=True) if spans else [(whole, values[0])]
        found[name] = AttributeScores(
            summaryScore=Score(value=values[0]),
            spanScores=[SpanScore(begin=begin, end=end, score=Score(value=value)) for (begin, end), value in scored],
        )
    return AnalyzeResponse(
        attributeScores=found, languages=asked.languages or ["en"], clientToken=asked.clientToken,
        guard={verdicts[policy][0].policy: verdicts[policy][0] for policy in verdicts},
    )  # fmt: skip


async def _suggested(desk: Desk, request: Request) -> SuggestResponse:
    """A line of JSON in the operator's file: what was sent, and when. Raises `NotOffered` where there is none."""
    asked = read_shape(SuggestRequest, await desk.read(request))
    file = desk.settings.suggestions
    if file is None:
        raise NotOffered("Corrections are not taken here.", hint="The operator sets `suggestions` to a file.")
    line = {"received": datetime.now(UTC).isoformat(), **asked.model_dump(mode="json", exclude_none=True)}
    await asyncio.to_thread(_added, file, json.dumps(line, ensure_ascii=False))
    return SuggestResponse(clientToken=asked.clientToken)


def _added(file: Path, line: str) -> None:
    """One write in append mode, so that lines of several requests do not mix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as out:
        out.write(line.encode("utf-8", "surrogatepass") + b"\n")


def _sums(desk: Desk, asked: AnalyzeRequest) -> dict[str, tuple[str | Policy, tuple[str, ...] | None]]:
    """For each attribute the policy to ask and the categories to add up (None: the score of the whole).

    Under another policy than our default TOXICITY is its score, and each category goes by its id in capitals. Raises
    `InvalidRequest` for an attribute that the policy does not know, and `UnknownPolicy`.
    """
    known: dict[str, tuple[str | Policy, tuple[str, ...] | None]]
    if asked.policy in (None, POLICY):
        known = {name: (POLICY, categories) for name, categories in ATTRIBUTES.items()}
        known[PROFANITY] = (_profanity(), ("profanity",))
    else:
        policy = desk.moderator.policies.get(str(asked.policy))
        known = {re.sub(r"\W", "_", c.id).upper(): (policy.id, (c.id,)) for c in policy.categories}
        known["TOXICITY"] = (policy.id, None)
    for name in asked.requestedAttributes:
        if name not in known:
            raise InvalidRequest(
                f"requestedAttributes: {name[:64]!r} is not known.", hint=f"Known: {', '.join(sorted(known))}.",
                param="requestedAttributes",
            )  # fmt: skip
    return {name: known[name] for name in asked.requestedAttributes}


@lru_cache(maxsize=1)
def _profanity() -> Policy:
    return load_policy(shipped("prompts") / "perspective" / "profanity.yaml")


def _value(verdict: Verdict, categories: tuple[str, ...] | None) -> float:
    """A rule's verdict has no category scores: it is sure of the category that it names, or of the whole."""
    if categories is None:
        return verdict.score or 0.0
    if verdict.reason.startswith("rule") and not verdict.category_scores:
        named = not verdict.categories or bool({*categories} & {*verdict.categories})
        return (verdict.score or 0.0) if named else 0.0
    return min(1.0, sum(verdict.category_scores.get(category, 0.0) for category in categories))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text begin and end; what stands between them is white space.

    >>> [("You are late. Fool!"[begin:end]) for begin, end in sentences("You are late. Fool!")]
    ['You are late.', 'Fool!']
    """
    for match in _SENTENCE.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip())


async def _answered(desk: Desk, work: Callable[[], Awaitable[BaseModel]]) -> BaseModel | JSONResponse:
    """The answer, or what kept it, as Google's APIs say it."""
    try:
        return await work()
    except ClientDisconnect:
        raise
    except Exception as error:
        return failed_as_google(error, desk.batcher.retry_after())


class GoogleError(BaseModel):
    """As Google's APIs form one; `details` hold our own code and the field that was wrong."""

    code: int
    message: str
    status: str
    details: list[dict[str, str | None]]


class GoogleErrorBody(BaseModel):
    """The body of every answer that is not 200."""

    error: GoogleError


def failed_as_google(error: Exception, retry_after: int = 1) -> JSONResponse:
    """The answer to a request that met `error`, as Google's APIs form it."""
    ours = failed(error, retry_after)
    told = json.loads(bytes(ours.body))["error"]
    status = _STATUS.get(ours.status_code, "INTERNAL")
    details = [{"reason": told["code"], "param": told["param"]}]
    google = GoogleError(code=ours.status_code, message=told["message"], status=status, details=details)
    headers = {name: ours.headers[name] for name in ("retry-after", "www-authenticate") if name in ours.headers}
    return JSONResponse(GoogleErrorBody(error=google).model_dump(), ours.status_code, headers)


def _discovery(root: str) -> dict[str, Any]:
    """The document from which Google's clients learn the methods, with the address that they reached us at."""
    free: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "any"}}
    parameters = {
        name: {"type": "string", "location": "query", "description": what}
        for name, what in (
            ("key", "A key of the service, where it asks for one."),
            ("alt", "json"),
            ("prettyPrint", "Not looked at."),
        )
    }
    return {
        "kind": "discovery#restDescription", "discoveryVersion": "v1", "id": "commentanalyzer:v1alpha1",
        "name": "commentanalyzer", "version": "v1alpha1", "title": "Perspective Comment Analyzer API, by guard",
        "protocol": "rest", "rootUrl": root, "baseUrl": root, "servicePath": "", "batchPath": "batch",
        "parameters": parameters,
        "schemas": {
            name: {"id": name, **free}
            for method in ("AnalyzeComment", "SuggestCommentScore")
            for name in (f"{method}Request", f"{method}Response")
        },
        "resources": {
            "comments": {
                "methods": {
                    name: {
                        "id": f"commentanalyzer.comments.{name}", "path": f"v1alpha1/comments:{name}",
                        "flatPath": f"v1alpha1/comments:{name}", "httpMethod": "POST", "parameters": {},
                        "parameterOrder": [], "request": {"$ref": f"{shape}Request"},
                        "response": {"$ref": f"{shape}Response"},
                    }
                    for name, shape in (("analyze", "AnalyzeComment"), ("suggestscore", "SuggestCommentScore"))
                }
            }
        },
    }  # fmt: skip
