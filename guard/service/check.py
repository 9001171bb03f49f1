"""Checking without generating: `POST /v1/guard`, our own form, and the policies that it may be asked by.

A text of any kind with its context, or a conversation, is judged as the guarded chat would judge it; no assistant is
asked. The policy may be one of the service's, or stand in the request, so that a change can be tried before it is made.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from guard.errors import STATUS, EngineError, InvalidPolicy, InvalidRequest, NotPermitted
from guard.item import Kind
from guard.keys import Key
from guard.policy import Policy, as_yaml
from guard.service.chat import judge_input
from guard.service.conversation import Conversation
from guard.service.desk import Answer, Desk, Text
from guard.service.failures import ErrorBody
from guard.service.incoming import Name, body_schema, read_shape
from guard.verdict import STRICTNESS, Verdict
from guard.yamlfile import read_yaml

_POLICY = 16384  # characters of a policy in a request


class CheckRequest(BaseModel):
    """A text (`input`) or a conversation (`messages`), and the policy: its id, or all of it in YAML."""

    model_config = ConfigDict(extra="forbid")

    input: str | None = None
    kind: Annotated[Kind, WithJsonSchema({"type": "string", "enum": list(Kind)})] | None = None
    prompt: str | None = None
    parent: str | None = None
    title: str | None = None
    messages: Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object"}})] = None
    documents: Annotated[list[Any], Field(max_length=1024)] | None = None
    policy: Name | None = None
    policy_yaml: Annotated[str, Field(max_length=_POLICY)] | None = None
    categories: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None


class CheckResult(BaseModel):
    """One text: where it stands in the request, what it was judged as, whether it is stopped, and the verdict."""

    param: str
    kind: Kind
    stopped: bool
    guard: Verdict


class Threshold(BaseModel):
    """A category of the policy as the model was asked about it, and what it takes to be named."""

    id: str
    threshold: float
    action: str


class CheckResponse(BaseModel):
    """`decision` is the strictest of the results'; `stopped` says whether a guarded chat would go on."""

    id: str
    object: Literal["guard.check"] = "guard.check"
    decision: str
    stopped: bool
    threshold: float
    categories: list[Threshold]
    results: list[CheckResult]
    milliseconds: float


class PolicyInfo(BaseModel):
    """A policy that can be asked by, in full."""

    id: str
    version: int
    description: str
    kinds: list[Kind]
    yaml: str


class PolicyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PolicyInfo]


def routes(desk: Desk) -> APIRouter:
    """The endpoints, to be included in an application."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status, _ in STATUS.values()})

    @router.post("/v1/guard", openapi_extra=body_schema(CheckRequest))
    async def check(request: Request) -> CheckResponse:
        asked = read_shape(CheckRequest, await desk.read(request))
        started = time.perf_counter()
        policy, categories = _policy(desk, request, asked)
        try:
            if asked.messages is None:
                texts = [_text(asked, policy)]
                answers = await desk.judge(request, texts, policy, categories)
            else:
                conversation = _conversation(asked, desk.settings.max_inputs)
                judged = await judge_input(desk, request, conversation, policy, categories)
                texts, answers = judged.texts, judged.answers
        except EngineError as error:
            if asked.policy_yaml is not None:  # too long for the model, most likely
                raise InvalidRequest(f"policy_yaml: {error.message}", hint=error.hint, param="policy_yaml") from error
            raise
        results = [_result(text, answer) for text, answer in zip(texts, answers, strict=True)]
        strictest = max((a.verdict.decision for a in answers), key=_strictness, default=STRICTNESS[0])
        return CheckResponse(
            id=f"guard-{uuid.uuid4().hex}", decision=strictest, stopped=any(answer.stopped for answer in answers),
            threshold=policy.threshold,
            categories=[Threshold(id=c.id, threshold=c.threshold, action=c.action) for c in policy.categories],
            results=results, milliseconds=round(1000 * (time.perf_counter() - started), 3),
        )  # fmt: skip

    @router.get("/v1/guard/policies")
    async def policies() -> PolicyList:
        return PolicyList(data=[_info(policy) for policy in desk.moderator.policies])

    return router


def _policy(desk: Desk, request: Request, asked: CheckRequest) -> tuple[Policy, list[str] | None]:
    """Raises `InvalidRequest`, `UnknownPolicy`, or `NotPermitted` for a policy of one's own where the key has one."""
    key: Key = request.state.key
    if asked.policy_yaml is None:
        name, categories = desk.bound(request, asked.policy, desk.settings.service_policy, asked.categories)
        return desk.moderator.policies.get(name), None if categories is None else list(categories)
    if key.policy is not None or key.categories is not None:
        raise NotPermitted("The key is for another policy.", hint="Name none.", param="policy_yaml")
    if asked.policy is not None:
        raise InvalidRequest("policy_yaml: beside `policy`.", hint="Send one of them.", param="policy_yaml")
    try:
        events = yaml.parse(asked.policy_yaml, Loader=yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in events):  # a few lines of them are gigabytes
            raise InvalidRequest("policy_yaml: aliases are not taken.", param="policy_yaml")
    except yaml.YAMLError:
        pass  # told with its line below
    try:
        return read_yaml(asked.policy_yaml, Path("policy_yaml"), Policy), asked.categories
    except InvalidPolicy as error:
        raise InvalidRequest(error.message, hint=error.hint, param="policy_yaml") from None


def _text(asked: CheckRequest, policy: Policy) -> Text:
    if asked.input is None:
        raise InvalidRequest("input: missing.", hint="Send `input` or `messages`.", param="input")
    if asked.documents is not None:
        raise InvalidRequest("documents: these belong to `messages`.", param="documents")
    kind = asked.kind or policy.default_kind
    return Text("input", asked.input, kind, asked.prompt, asked.parent, asked.title)


def _conversation(asked: CheckRequest, limit: int) -> Conversation:
    for name in ("input", "kind", "prompt", "parent", "title"):
        if getattr(asked, name) is not None:
            raise InvalidRequest(f"{name}: beside `messages`.", hint="Send one of them.", param=name)
    return Conversation(asked.messages, asked.documents, limit)


def _result(text: Text, answer: Answer) -> CheckResult:
    assert text.kind is not None  # both ways of asking say it
    return CheckResult(param=text.param, kind=text.kind, stopped=answer.stopped, guard=answer.verdict)


def _strictness(decision: str) -> int:
    """An error is stricter than anything."""
    return STRICTNESS.index(decision) if decision in STRICTNESS else len(STRICTNESS)


def _info(policy: Policy) -> PolicyInfo:
    return PolicyInfo(
        id=policy.id, version=policy.version, description=policy.description, kinds=list(policy.kinds),
        yaml=as_yaml(policy),
    )  # fmt: skip
