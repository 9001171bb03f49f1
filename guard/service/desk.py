"""The desk: what every wire format needs between its fields and the batcher.

The one rule: a text that nobody judged makes the request an error, never a result, unless the key says so; then the
answer says that too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from starlette.requests import Request

from guard.engine.request import LogProbs
from guard.engine.request import Request as Asked
from guard.errors import (
    STATUS,
    EngineError,
    GuardError,
    InvalidItem,
    NotPermitted,
    NotReady,
    RunError,
    described,
)
from guard.item import Item, Kind
from guard.keys import Fail, Key, Mode
from guard.moderator import Moderator, Task
from guard.policy import Policy, Thresholds
from guard.service.allowance import estimated_tokens
from guard.service.batcher import Batcher, request_tokens, text_tokens
from guard.service.incoming import read_body, read_object, unless_gone
from guard.settings import Settings
from guard.verdict import Verdict

_log = logging.getLogger(__name__)

_SELF_TEST = "The weather is fine today."
_SELF_TEST_AGAIN = 5.0  # seconds between attempts, should the first one fail
_BY_CODE = {leaf.code: leaf for leaf in STATUS}


class Text(NamedTuple):
    """A text of a request, and where it stands there, such as `input.3`; its kind (None: the policy's default), of an
    answer the prompt, and of a comment the one that it replies to and its thread's title."""

    param: str
    text: str
    kind: Kind | None = None
    prompt: str | None = None
    parent: str | None = None
    title: str | None = None


class Answer(NamedTuple):
    """What a wire format tells of a text: was it stopped, which categories are named, and their scores.

    In shadow mode nothing is stopped or named, whatever the verdict says; where a text passes because it could not be
    judged, the scores are all 0, too.
    """

    verdict: Verdict
    stopped: bool
    named: tuple[str, ...]
    scores: dict[str, float]


class Desk:
    """Judges the texts of requests. `open` starts the worker and tests it; `check` says whether both are well."""

    def __init__(self, moderator: Moderator, settings: Settings) -> None:
        self.moderator = moderator
        self.settings = settings
        self.batcher = Batcher(
            moderator.judge_many, lambda task, error: moderator.failed(task.policy, error),
            lambda task: text_tokens(task.item.text, settings), settings,
        )  # fmt: skip
        self.scoring: Batcher[Asked, LogProbs | GuardError] = Batcher(
            moderator.score, lambda _, error: error, request_tokens, settings
        )
        self._tested = asyncio.Event()
        self._fault = "The self-test has not finished."

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.batcher.start()
        self.scoring.start()
        testing = asyncio.create_task(self._self_test())
        try:
            yield
        finally:
            testing.cancel()
            await asyncio.gather(self.batcher.close(), self.scoring.close())
            await asyncio.gather(testing, return_exceptions=True)

    def check(self) -> None:
        """Raises `NotReady` unless the self-test has passed and the worker works."""
        if self._fault:
            raise NotReady(self._fault, hint="See the service's log.")
        self.batcher.check()
        self.scoring.check()
        self.moderator.engine.check()

    async def ready(self) -> None:
        """Wait for the first self-test. Raises `NotReady` as `check` does."""
        await self._tested.wait()
        self.check()

    def retry_after(self) -> int:
        """Whole seconds until what waits now should have been answered."""
        return max(self.batcher.retry_after(), self.scoring.retry_after())

    def bound(
        self, request: Request, policy: str | None, default: str, categories: Sequence[str] | None
    ) -> tuple[str, Sequence[str] | None]:
        """The policy and the categories to judge by: those asked for, else the key's, else the default.

        Raises `NotPermitted` for a policy that is not the key's, and for a category that is none of the key's.
        """
        key: Key = request.state.key
        if policy and key.policy not in (None, policy):
            raise NotPermitted("The key is for another policy.", hint="Name none.", param="policy")
        if key.categories is not None and not {*(categories or ())} <= {*key.categories}:
            raise NotPermitted("The key is for other categories.", hint="Name none.", param="categories")
        return policy or key.policy or default, key.categories if categories is None else categories

    async def read(self, request: Request) -> dict[str, Any]:
        """The JSON object in a request's body. Raises `InvalidRequest` and `PayloadTooLarge`."""
        return read_object(await read_body(request, self.settings.max_body_mb))

    async def judge(
        self, request: Request, texts: Sequence[Text], policy: str | Policy, categories: Sequence[str] | None,
        thresholds: Thresholds | None = None,
    ) -> list[Answer]:  # fmt: skip
        """One answer per text. Raises whatever kept any of them from being judged, unless the key lets them pass then,
        and `RateLimited` where the key's tokens are used up."""
        key: Key = request.state.key
        if key.mode is Mode.SHADOW:
            request.state.headers["x-guard-mode"] = key.mode.value
        chosen = policy if isinstance(policy, Policy) else self.moderator.policies.get(policy)
        if thresholds is not None:
            chosen = chosen.under(thresholds)
        kinds = {text.kind or chosen.default_kind for text in texts}
        narrowed = {kind: chosen.narrowed(categories, kind) for kind in kinds}
        tasks = [_task(text, kind, narrowed[kind]) for text in texts for kind in (text.kind or chosen.default_kind,)]
        request.state.allowance.take_tokens(estimated_tokens(text.text for text in texts))
        try:
            verdicts = await unless_gone(request, self._judged(tasks))
        except RunError as error:
            _tell_failure(request, key, error.code)
            if key.fail is Fail.CLOSED:
                raise
            verdicts = [self.moderator.failed(task.policy, error) for task in tasks]
        outcomes = Counter(verdict.decision.value for verdict in verdicts)
        characters = sum(len(text.text) for text in texts)
        request.state.log.append(
            f"key={key.id} mode={key.mode} policy={chosen.id} texts={len(texts)} characters={characters} "
            + " ".join(f"{decision}={n}" for decision, n in sorted(outcomes.items()))
        )
        return [
            _answer(request, key, task.policy, verdict, text.param)
            for text, task, verdict in zip(texts, tasks, verdicts, strict=True)
        ]

    async def _judged(self, tasks: list[Task]) -> list[Verdict]:
        await self.ready()
        return await self.batcher.submit(tasks)

    async def _self_test(self) -> None:
        """Pin the service's policy and judge one text, until that succeeds.

        Requests wait for the first attempt, and fail after a failed one.
        """
        while self._fault:
            try:
                await asyncio.to_thread(self.moderator.pin, self.settings.service_policy)
                (verdict,) = await self.batcher.submit(
                    [self.moderator.task(_SELF_TEST, policy=self.settings.service_policy)]
                )
                _check(verdict, param=None)
                self._fault = ""
                _log.info("self-test passed: model %s", verdict.model)
            except Exception as error:  # whatever it is, the service is not ready
                self._fault = f"The self-test failed: {error if isinstance(error, GuardError) else 'internal error'}"
                _log.error("self-test failed: %s", described(error))
            self._tested.set()
            if self._fault:
                await asyncio.sleep(_SELF_TEST_AGAIN)


def _task(text: Text, kind: Kind, policy: Policy) -> Task:
    try:
        item = Item(text=text.text, kind=kind, prompt=text.prompt, parent=text.parent, title=text.title)
        return Task(item, policy)
    except InvalidItem as error:
        error.param = text.param
        raise


def _answer(request: Request, key: Key, policy: Policy, verdict: Verdict, param: str) -> Answer:
    """Raises the error of a verdict that has one, unless the key lets such a text pass."""
    try:
        _check(verdict, param)
    except RunError as error:
        _tell_failure(request, key, error.code)
        if key.fail is Fail.CLOSED:
            raise
        return Answer(verdict, False, (), {category.id: 0.0 for category in policy.categories})
    if key.mode is Mode.SHADOW:
        return Answer(verdict, False, (), verdict.category_scores)
    return Answer(verdict, not verdict.accepted, verdict.categories, verdict.category_scores)


def _tell_failure(request: Request, key: Key, code: str) -> None:
    request.state.headers[f"x-guard-failed-{key.fail.value}"] = code


def _check(verdict: Verdict, param: str | None) -> None:
    """Raises the error of a verdict that has one."""
    failure = verdict.error
    if failure is not None:
        raise _BY_CODE.get(failure.code, EngineError)(failure.message, hint=failure.hint, param=param)
