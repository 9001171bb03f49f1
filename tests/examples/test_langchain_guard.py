"""The LangChain Runnable in a chain, around one of LangChain's own scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from examples.langchain_guard import Guarded, NotAcceptable
from guard.keys import Fail, Mode
from tests.service.support import Service, one_of

Start = Callable[..., Service]
FINE, BAD = one_of(14, 0), one_of(14, 3)


class Model(FakeMessagesListChatModel):
    """Says one thing, and counts how often."""

    responses: list[AIMessage] = [AIMessage("Of wood.")]  # type: ignore[assignment]
    asked: int = 0

    def _call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super()._call(*args, **kwargs)

    def _generate(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super()._generate(*args, **kwargs)


def test_in_a_chain_what_is_acceptable_passes(start: Start) -> None:
    service = start(script=[FINE, FINE])
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "How are {things} made?")])
    chain = prompt | Guarded(Model(), service.url) | StrOutputParser()
    assert chain.invoke({"things": "boats"}) == "Of wood."
    assert service.saw("How are boats made?") and service.saw("Of wood.") and not service.saw("Be brief.")


def test_an_unacceptable_prompt_does_not_reach_the_model(start: Start) -> None:
    service = start(script=[BAD])
    model = Model()
    with pytest.raises(NotAcceptable, match=r"^The prompt is not acceptable: hate\.$") as caught:
        Guarded(model, service.url).invoke("How are boats made?")
    assert model.asked == 0 and caught.value.verdict["policy"] == "moderation-13"


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke", "batch"])
def test_an_unacceptable_answer_does_not_leave(start: Start, how: str) -> None:
    service = start(script=[FINE, BAD])
    guarded = Guarded(Model(), service.url)
    ways: dict[str, Callable[[], object]] = {
        "invoke": lambda: guarded.invoke([HumanMessage("How?")]),
        "stream": lambda: list(guarded.stream([("user", "How?")])),
        "ainvoke": lambda: asyncio.run(guarded.ainvoke("How?")),
        "batch": lambda: guarded.batch(["How?"]),
    }
    with pytest.raises(NotAcceptable, match=r"^The answer is not acceptable: hate\.$"):
        ways[how]()


def test_without_guard_nothing_passes(service: Service) -> None:
    model = Model()
    with pytest.raises(httpx.HTTPError):
        Guarded(model, "http://127.0.0.1:1").invoke("How?")
    with pytest.raises(httpx.HTTPError):
        Guarded(model, service.url, policy="nope").invoke("How?")
    assert model.asked == 0


def test_a_key_is_sent_and_its_mode_counts(keyed: Callable[..., tuple[Service, str]]) -> None:
    service, secret = keyed(script=[BAD, BAD], mode=Mode.SHADOW, fail=Fail.OPEN)
    guarded = Guarded(Model(), service.url, key=secret)
    assert guarded.invoke("How?").text == "Of wood."
    with pytest.raises(httpx.HTTPError):
        Guarded(Model(), service.url, key="wrong").invoke("How?")


def test_what_says_nothing_is_not_asked_about(start: Start) -> None:
    service = start(script=[FINE])
    calls = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    assert Guarded(Model(responses=[calls]), service.url).invoke("How?").tool_calls  # type: ignore[attr-defined]
    service.engine.answer_by_hash()
    guarded = Guarded(Model(responses=[AIMessage("")]), service.url)
    assert guarded.invoke([SystemMessage("Greet.")]).text == ""
