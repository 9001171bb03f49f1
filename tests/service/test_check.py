"""Checking without generating, over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from guard.item import Item, Kind
from guard.policy import PolicyBook, as_yaml
from tests.service.support import Service, error_of, one_of

Start = Callable[..., Service]
OWN = """
id: mine
version: 3
categories:
  - id: shouting
    description: is written in capitals throughout
    threshold: 0.3
    action: review
"""


def post(service: Service, **body: object) -> Any:
    return service.http.post("/v1/guard", json=body)


def test_a_text_of_each_kind_with_its_context(service: Service) -> None:
    for policy, item in (
        ("moderation-13", Item(text="Hello", kind=Kind.PROMPT)),
        ("moderation-13", Item(text="Hello", kind=Kind.ANSWER, prompt="Hi")),
        ("forum-comments", Item(text="Hello", kind=Kind.COMMENT, parent="Hi", title="Greetings")),
        ("injection", Item(text="Hello", kind=Kind.DOCUMENT)),
    ):
        fields = item.model_dump(mode="json", exclude={"text"}, exclude_none=True)
        reply = post(service, input="Hello", policy=policy, **fields).json()
        (result,) = reply["results"]
        assert result["guard"] == service.moderator.judge(item, policy=policy).model_dump(mode="json")
        assert (result["param"], result["kind"]) == ("input", item.kind.value)
        assert reply["decision"] == result["guard"]["decision"] and reply["milliseconds"] > 0
        assert [c["id"] for c in reply["categories"]] == list(result["guard"]["category_scores"])


def test_a_conversation_is_judged_as_the_chat_would(start: Start) -> None:
    service = start(script=[one_of(14, 0)] * 4 + [one_of(2, 1)])
    messages = [
        {"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"}, {"role": "assistant", "content": "So"},
    ]  # fmt: skip
    reply = post(service, messages=messages, documents=["a page"]).json()
    found = [(r["param"], r["kind"], r["stopped"]) for r in reply["results"]]
    assert found == [
        ("messages.2", "prompt", False), ("messages.3", "answer", False), ("messages.2", "prompt", False),
        ("documents.0", "document", True),
    ]  # fmt: skip
    assert reply["stopped"] and reply["decision"] == "flag"


def test_a_policy_in_the_request(service: Service) -> None:
    reply = post(service, input="HELLO", policy_yaml=OWN).json()
    (result,) = reply["results"]
    assert result["guard"]["policy"] == "mine" and result["guard"]["policy_version"] == 3
    assert reply["categories"] == [{"id": "shouting", "threshold": 0.3, "action": "review"}]
    shipped = PolicyBook().get("moderation-13")
    same = post(service, input="Hello", policy_yaml=as_yaml(shipped)).json()["results"][0]["guard"]
    assert same == post(service, input="Hello", policy="moderation-13").json()["results"][0]["guard"]


def test_the_policies_that_may_be_asked_by(service: Service) -> None:
    found = service.http.get("/v1/guard/policies").json()
    assert found["object"] == "list"
    assert [p["id"] for p in found["data"]] == [policy.id for policy in service.moderator.policies]
    assert found["data"][0]["kinds"] == ["comment"] and found["data"][0]["yaml"].startswith("id: forum-comments")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"), ({"input": 5}, "input"), ({"input": " "}, "input"), ({"input": "x", "unknown": 1}, "unknown"),
        ({"input": "x", "messages": []}, "input"), ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "kind": "prompt"}, "kind"),
        ({"input": "x", "documents": ["y"]}, "documents"), ({"input": "x", "kind": "essay"}, "kind"),
        ({"input": "x", "policy": "none such"}, "policy"),
        ({"input": "x", "policy": "injection", "kind": "prompt"}, "kind"),
        ({"input": "x", "policy_yaml": "id: ["}, "policy_yaml"), ({"input": "x", "policy_yaml": "5"}, "policy_yaml"),
        ({"input": "x", "policy_yaml": OWN, "policy": "mistral-9"}, "policy_yaml"),
        ({"input": "x", "policy_yaml": OWN + "colour: red\n"}, "policy_yaml"),
        ({"input": "x", "policy_yaml": "a: &a [1]\nb: [*a, *a]"}, "policy_yaml"),
        ({"input": "x", "policy_yaml": "x" * 20000}, "policy_yaml"),
        ({"input": "x", "policy_yaml": OWN.replace("capitals", "capitals " * 110)
          + "".join(f"  - {{id: c{i}, description: {'w ' * 400}}}\n" for i in range(15))}, "policy_yaml"),
    ],
)  # fmt: skip
def test_bad_requests_name_the_field(service: Service, body: dict[str, Any], param: str) -> None:
    assert error_of(post(service, **body), 400)["param"] == param


def test_a_bad_policy_names_its_line(service: Service) -> None:
    error = error_of(post(service, input="x", policy_yaml=OWN.replace("0.3", "7")), 400)
    assert "policy_yaml:7" in str(error["message"])
