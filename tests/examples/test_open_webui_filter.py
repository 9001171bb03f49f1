"""The Open WebUI filter, called as Open WebUI calls it: handlers by name, arguments by signature."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from examples.open_webui_filter import Filter
from guard.keys import Fail, Mode
from tests.examples.support import EXAMPLES
from tests.service.support import Service, one_of

Start = Callable[..., Service]
Keyed = Callable[..., tuple[Service, str]]
FINE, BAD = one_of(14, 0), one_of(14, 3)
ASKED = {"role": "user", "content": "How are boats made?"}
NOBODY = "http://127.0.0.1:1"  # no process may listen there without being root


class Host:
    """What Open WebUI does around a filter, for one request of a chat."""

    def __init__(self, **valves: object) -> None:
        self.filter = Filter()
        self.filter.valves = Filter.Valves(**valves)
        self.request = Request({"type": "http", "headers": []})

    def call(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Call a handler with what it asks for by name, and go on with what it returns."""
        handler = getattr(self.filter, kind)
        offered = {"__user__": {"id": "u"}, "__request__": self.request, "__metadata__": {}, "__model__": {}}
        wanted = {name: value for name, value in offered.items() if name in inspect.signature(handler).parameters}
        returned: dict[str, Any] = asyncio.run(
            handler(**{"event" if kind == "stream" else "body": copy.deepcopy(data)}, **wanted)
        )
        return returned

    def streamed(self, *words: str, **first: str) -> list[dict[str, str]]:
        """The deltas that a user gets of an answer in words. Each event has an id of its own, as Ollama's have."""
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", **first}, None)]
        deltas += [({"content": word}, None) for word in words]
        events = [
            {"id": f"e{i}", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for i, (delta, reason) in enumerate([*deltas, ({}, "stop")])
        ]
        return [self.call("stream", event)["choices"][0]["delta"] for event in events]


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), "chat_id": "c", "id": "x"}


def answered(content: Any, **more: Any) -> dict[str, Any]:
    return {"id": "x", "role": "assistant", "content": content, **more}


def test_an_acceptable_message_goes_on_unchanged(start: Start) -> None:
    service = start(script=[FINE])
    body = chat({"role": "system", "content": "Be brief."}, ASKED)
    assert Host(url=service.url + "/").call("inlet", body) == body
    assert service.saw(ASKED["content"]) and not service.saw("Be brief.")


def test_an_unacceptable_message_is_stopped_with_its_category(start: Start) -> None:
    service = start(script=[BAD])
    with pytest.raises(Exception, match=r"^The message was not sent: it is not acceptable here \(hate\)\.$"):
        Host(url=service.url).call("inlet", chat(ASKED))


def test_the_last_message_of_the_user_is_the_one_judged(start: Start) -> None:
    service = start(script=[FINE])
    parts = [{"type": "text", "text": "and rafts?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    Host(url=service.url).call("inlet", chat(ASKED, answered("Of wood."), {"role": "user", "content": parts}))
    assert service.saw("and rafts?") and not service.saw(ASKED["content"])


def test_the_policy_is_the_valves(start: Start) -> None:
    service = start(script=[one_of(10, 1)])  # mistral-9 has nine categories
    with pytest.raises(Exception, match=r"not acceptable here \(sexual\)"):
        Host(url=service.url, policy="mistral-9").call("inlet", chat(ASKED))
    with pytest.raises(Exception, match="could not be judged"):
        Host(url=service.url, policy="nope").call("inlet", chat(ASKED))


def test_a_key_is_sent_and_its_shadow_mode_stops_nothing(keyed: Keyed) -> None:
    service, secret = keyed(script=[BAD, BAD], mode=Mode.SHADOW)
    host = Host(url=service.url, key=secret)
    assert host.call("inlet", chat(ASKED)) == chat(ASKED)
    assert host.call("outlet", chat(ASKED, answered("Of wood."))) == chat(ASKED, answered("Of wood."))
    with pytest.raises(Exception, match="could not be judged"):
        Host(url=service.url, key="wrong").call("inlet", chat(ASKED))


def test_where_a_key_fails_open_the_valve_still_decides(keyed: Keyed) -> None:
    service, secret = keyed(fail=Fail.OPEN)
    service.engine.poison = (service.tokenizer.encode("How are"), RuntimeError("broken"))
    with pytest.raises(Exception, match="could not be judged"):
        Host(url=service.url, key=secret).call("inlet", chat(ASKED))
    assert Host(url=service.url, key=secret, fail_open=True).call("inlet", chat(ASKED)) == chat(ASKED)


@pytest.mark.parametrize("fail_open", [False, True])
def test_without_guard_the_valve_decides(fail_open: bool) -> None:
    host = Host(url=NOBODY, fail_open=fail_open)
    if fail_open:
        assert host.call("inlet", chat(ASKED)) == chat(ASKED)
    else:
        with pytest.raises(Exception, match="could not be judged"):
            host.call("inlet", chat(ASKED))
    shown = "Of wood." if fail_open else host.filter.valves.notice
    assert host.call("outlet", chat(ASKED, answered("Of wood.")))["messages"][-1]["content"] == shown
    assert host.streamed("Of ", "wood.")[-1] == {"content": shown}


def test_it_fails_closed_unless_told_otherwise() -> None:
    assert Filter().valves.fail_open is False


def test_an_engine_that_fails_is_no_verdict(service: Service) -> None:
    service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
    host = Host(url=service.url)
    with pytest.raises(Exception, match="could not be judged"):
        host.call("inlet", chat({"role": "user", "content": "poison"}))
    body = host.call("outlet", chat(ASKED, answered("poison")))
    assert body["messages"][-1]["content"] == host.filter.valves.notice


def test_an_answer_is_judged_with_its_prompt_and_replaced_never_raised(start: Start) -> None:
    service = start(script=[FINE, BAD])
    host = Host(url=service.url)
    body = chat(ASKED, answered("Of wood."))
    assert host.call("outlet", body) == body
    assert service.saw(ASKED["content"]) and service.saw("Of wood.")
    old = [{"type": "reasoning"}, {"type": "message"}]
    (_, message) = host.call("outlet", chat(ASKED, answered("Of wood.", output=old)))["messages"]
    assert message["content"] == host.filter.valves.notice and message["id"] == "x"
    ((part,),) = (item["content"] for item in message["output"])
    assert part["text"] == host.filter.valves.notice


def test_a_streamed_answer_is_held_until_it_is_judged(start: Start) -> None:
    service = start(script=[FINE, FINE, BAD])
    host = Host(url=service.url)
    host.call("inlet", chat(ASKED))
    deltas = host.streamed("Of ", "wood.", reasoning_content="Boats float.")
    assert deltas == [{"role": "assistant"}, {}, {}, {"reasoning_content": "Boats float.", "content": "Of wood."}]
    assert service.saw("Boats float.\nOf wood.")
    assert host.streamed("Of ", "bone.") == [{"role": "assistant"}, {}, {}, {"content": host.filter.valves.notice}]


def test_two_answers_at_once_are_not_mixed_up(start: Start) -> None:
    service = start(script=[FINE] * 4)
    one, other = Host(url=service.url), Host(url=service.url)
    other.filter = one.filter  # Open WebUI has one filter for all
    for host in (one, other):
        host.call("inlet", chat(ASKED))
    for host, word in ((one, "Wood."), (other, "Steel.")):
        host.call("stream", {"choices": [{"delta": {"content": word}}]})
    ends = [host.call("stream", {"choices": [{"delta": {}, "finish_reason": "stop"}]}) for host in (one, other)]
    assert [end["choices"][0]["delta"]["content"] for end in ends] == ["Wood.", "Steel."]


def test_unheld_streams_and_other_events_pass_as_they_are() -> None:
    assert Host(url=NOBODY, hold=False).streamed("Of ", "wood.")[1:] == [{"content": "Of "}, {"content": "wood."}, {}]
    assert Host(url=NOBODY).call("stream", {"sources": []}) == {"sources": []}


def test_what_says_nothing_is_not_asked_about() -> None:
    host = Host(url=NOBODY)
    assert host.call("inlet", chat({"role": "user", "content": " "})) == chat({"role": "user", "content": " "})
    assert host.call("outlet", chat(ASKED, answered(""))) == chat(ASKED, answered(""))
    assert host.call("outlet", {}) == {}


def test_it_is_loaded_as_text_is() -> None:
    """Open WebUI executes the pasted text in a module of its own, and reads the lines that it begins with."""
    text = (EXAMPLES / "open_webui_filter.py").read_text(encoding="utf-8")
    assert text.startswith('"""\ntitle: guard\n')
    module = types.ModuleType("function_guard")
    sys.modules[module.__name__] = module
    try:
        exec(text, module.__dict__)
        assert module.Filter.Valves(url="http://x", fail_open=True).fail_open is True
        assert {"url", "key", "policy", "fail_open", "priority"} <= set(
            module.Filter.Valves.model_json_schema()["properties"]
        )
    finally:
        del sys.modules[module.__name__]
