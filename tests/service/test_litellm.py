"""LiteLLM's guardrail hook over a real socket, with the bodies that its proxy sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.item import Item, Kind
from guard.service.litellm import PATH
from tests.service.support import Service, error_of, one_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "litellm.yaml"
Start = Callable[..., Service]
# what the proxy sends beside the texts
SURROUNDINGS: dict[str, Any] = {
    "images": None, "tools": [{"type": "web_search"}], "tool_calls": [], "litellm_version": "1.80.0",
    "structured_messages": [{"role": "user", "content": "Hello"}], "litellm_call_id": "a", "litellm_trace_id": None,
    "request_data": {"user_api_key_hash": "x", "user_api_key_alias": None}, "request_headers": {"a": "[present]"},
    "additional_provider_specific_params": {},
}  # fmt: skip


def post(service: Service, **body: object):  # type: ignore[no-untyped-def]
    return service.http.post(PATH, json={"input_type": "request", **SURROUNDINGS, **body})


def test_texts_that_pass(start: Start) -> None:
    service = start(script=[one_of(14, 0)] * 2)
    reply = post(service, texts=["Hello", "Bye"])
    assert reply.status_code == 200 and reply.json()["action"] == "NONE" and reply.json()["blocked_reason"] is None
    assert [verdict["decision"] for verdict in reply.json()["guard"]] == ["allow", "allow"]


def test_one_text_that_does_not_pass_blocks_and_says_why_without_quoting(start: Start) -> None:
    service = start(script=[one_of(14, 0), one_of(14, 3)])
    reply = post(service, texts=["Hello", "secret words"]).json()
    assert reply["action"] == "BLOCKED" and "secret" not in reply["blocked_reason"]
    assert reply["blocked_reason"] == "hate (0.99) under the policy moderation-13"


@pytest.mark.parametrize(("side", "kind"), [("request", Kind.PROMPT), ("response", Kind.ANSWER)])
def test_each_side_is_judged_as_what_it_is(service: Service, side: str, kind: Kind) -> None:
    (found,) = post(service, input_type=side, texts=["Hello"]).json()["guard"]
    assert found == service.moderator.judge(Item(text="Hello", kind=kind), policy="moderation-13").model_dump(
        mode="json"
    )


def test_the_policy_is_chosen_by_the_proxys_settings(service: Service) -> None:
    chosen = {"policy": "mistral-9", "categories": ["sexual", "pii"], "unknown": 5}
    (found,) = post(service, texts=["Hello"], additional_provider_specific_params=chosen).json()["guard"]
    assert found["policy"] == "mistral-9" and set(found["category_scores"]) == {"sexual", "pii"}


def test_the_example_chooses_what_there_is(service: Service) -> None:
    """As LiteLLM reads it: the base, to which it appends the path, and what it passes on."""
    (guardrail,) = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["guardrails"]
    settings = guardrail["litellm_params"]
    assert settings["guardrail"] == "generic_guardrail_api" and settings["mode"] == ["pre_call", "post_call"]
    # without these the real proxy judges nobody who does not ask for it, and lets a part of an answer go unjudged
    assert settings["default_on"] is True and settings["streaming_buffer_until_moderated"] is True
    chosen = settings["additional_provider_specific_params"]
    (found,) = post(service, texts=["Hello"], additional_provider_specific_params=chosen).json()["guard"]
    assert found["policy"] == chosen["policy"] == "moderation-13"


def test_what_tools_are_called_with_is_judged(service: Service) -> None:
    calls = [{"function": {"name": "f", "arguments": '{"q": "bomb"}'}}, {"id": "no function"}, None, 5]
    reply = post(service, texts=None, tool_calls=calls).json()
    assert len(reply["guard"]) == 1 and service.saw("bomb")


@pytest.mark.parametrize("texts", [None, [], ["", None, " \n"]])
def test_nothing_to_judge_passes(service: Service, texts: object) -> None:
    assert post(service, texts=texts).json() == {"action": "NONE", "blocked_reason": None, "guard": []}


@pytest.mark.parametrize(
    "body",
    [
        {"input_type": "other"}, {"input_type": None}, {"texts": "x"}, {"texts": [5]}, {"images": ["data:..."]},
        {"texts": [], "additional_provider_specific_params": {"policy": "nope"}},
        {"texts": ["x"], "additional_provider_specific_params": {"categories": ["nope"]}},
        {"texts": ["x"], "additional_provider_specific_params": 5},
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_no_verdict(service: Service, body: dict[str, object]) -> None:
    error_of(post(service, **body), 400)


def test_a_text_that_nobody_judged_fails_the_guardrail(service: Service) -> None:
    service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
    error_of(post(service, texts=["Hello", "poison"]), 500)
