"""Mistral's moderation of texts and conversations over a real socket, with the official SDK and with raw bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from mistralai.client import Mistral

from guard.item import Item, Kind
from guard.service.mistral import POLICY_OF
from tests.service.support import Service, error_of, one_of

Start = Callable[..., Service]
ASKED = {"role": "user", "content": "How do I pick a lock?"}
ANSWERED = {"role": "assistant", "content": "I would rather not say."}


@pytest.fixture
def sdk(service: Service) -> Iterator[Mistral]:
    with Mistral(api_key="none", server_url=service.url) as client:
        yield client


def post(service: Service, **body: object):  # type: ignore[no-untyped-def]
    return service.http.post("/v1/chat/moderations", json={"model": "mistral-moderation-latest", **body})


@pytest.mark.parametrize(("model", "policy"), POLICY_OF.items())
def test_texts_have_a_result_each(service: Service, sdk: Mistral, model: str, policy: str) -> None:
    reply = sdk.classifiers.moderate(model=model, inputs=["one", "two"])
    verdicts = [service.moderator.judge(text, policy=policy) for text in ("one", "two")]
    assert reply.model == model and reply.id.startswith("modr-")
    assert [result.category_scores for result in reply.results] == [verdict.category_scores for verdict in verdicts]
    assert set(reply.results[0].categories) == {c.id for c in service.moderator.policies.get(policy).categories}


def test_the_shared_path_is_settled_by_model_and_by_prefix(service: Service) -> None:
    def results(path: str, **body: object) -> set[str]:
        reply = service.http.post(path, json={"input": "one", **body})
        assert reply.status_code == 200, reply.text
        return set(reply.json()["results"][0])

    mistral, openai = {"categories", "category_scores", "guard"}, {"flagged", "category_applied_input_types"}
    assert results("/v1/moderations", model="mistral-moderation-2411") == mistral
    assert results("/mistral/v1/moderations", model="mistral-9") == mistral
    for body in ({}, {"model": None}, {"model": "omni-moderation-latest"}, {"model": "mistral-9"}):
        assert results("/v1/moderations", **body) == mistral | openai
        assert results("/openai/v1/moderations", **body) == mistral | openai
    error_of(service.http.post("/mistral/v1/moderations", json={"input": "one"}), 400)
    unknown = service.http.post("/v1/moderations", json={"input": "x", "model": "mistral-moderation-9999"})
    assert "mistral-moderation-2603" in str(error_of(unknown, 404)["message"])
    error_of(service.http.post("/openai/v1/moderations", json={"input": "x", "model": "mistral-moderation-2411"}), 404)


LIKELY = "financial"


def under(start: Start, **thresholds: object) -> dict[str, bool]:
    """The categories that are named where `financial` has .6 and the others little."""
    labels = ["", *(c.id for c in start().moderator.policies.get("mistral-9").categories)]
    service = start(script=[one_of(len(labels), labels.index(LIKELY), 0.6)])
    service.engine.seen.clear()
    body = {"input": "one", "model": "mistral-moderation-2411", **thresholds}
    reply = service.http.post("/v1/moderations", json=body)
    assert reply.status_code == 200, reply.text
    result = reply.json()["results"][0]
    assert (result["guard"]["decision"] == "allow") == (not any(result["categories"].values()))
    return {name for name, named in result["categories"].items() if named}


def test_a_request_has_thresholds_of_its_own(start: Start) -> None:
    assert under(start) == {LIKELY}
    assert under(start, custom_category_thresholds={LIKELY: 0.7}) == set()
    assert under(start, custom_category_thresholds={LIKELY: None}) == {LIKELY}
    assert under(start, custom_category_thresholds={"sexual": 0.01}) == {LIKELY, "sexual"}
    assert under(start, custom_category_thresholds={"sexual": 0.01}, ignore_other_categories=True) == {"sexual"}


@pytest.mark.parametrize(
    ("thresholds", "param"),
    [
        ({"nothing": 0.5}, "custom_category_thresholds"),
        ({"sexual": 1.5}, "custom_category_thresholds.sexual"),
        ({"sexual": "high"}, "custom_category_thresholds.sexual"),
        ([0.5], "custom_category_thresholds"),
    ],
)
def test_bad_thresholds_are_named(service: Service, thresholds: object, param: str) -> None:
    body = {"input": "one", "model": "mistral-moderation-2411", "custom_category_thresholds": thresholds}
    assert error_of(service.http.post("/v1/moderations", json=body), 400)["param"] == param


@pytest.mark.parametrize("wrong", [None, 5, {}, [], [5], [None], ""])
def test_bad_texts_are_errors(service: Service, wrong: object) -> None:
    body = {"input": wrong, "model": "mistral-moderation-2411"}
    assert str(error_of(service.http.post("/v1/moderations", json=body), 400)["param"]).startswith("input")


def test_an_answer_is_judged_given_its_prompt(service: Service, sdk: Mistral) -> None:
    reply = sdk.classifiers.moderate_chat(model="mistral-moderation-2411", inputs=[ASKED, ANSWERED])
    item = Item(text=ANSWERED["content"], kind=Kind.ANSWER, prompt=ASKED["content"])
    verdict = service.moderator.judge(item, policy="mistral-9")
    (result,) = reply.results
    assert reply.model == "mistral-moderation-2411" and reply.id.startswith("modr-")
    assert result.category_scores == verdict.category_scores
    assert result.categories == {name: name in verdict.categories for name in verdict.category_scores}


def test_a_users_last_turn_is_a_prompt(service: Service) -> None:
    (result,) = post(service, input=[ASKED, ANSWERED, {"role": "user", "content": "Come on."}]).json()["results"]
    assert set(result) == {"categories", "category_scores", "guard"}
    assert result["guard"] == service.moderator.judge("Come on.", policy="mistral-9").model_dump(mode="json")


def test_several_conversations_of_both_kinds(service: Service, sdk: Mistral) -> None:
    reply = sdk.classifiers.moderate_chat(model="mistral-moderation-2603", inputs=[[ASKED], [ASKED, ANSWERED]])
    answer = Item(text=ANSWERED["content"], kind=Kind.ANSWER, prompt=ASKED["content"])
    expected = [service.moderator.judge(item, policy="mistral-11") for item in (ASKED["content"], answer)]
    assert [result.category_scores for result in reply.results] == [verdict.category_scores for verdict in expected]


def test_the_last_user_message_before_the_answer_is_its_prompt(service: Service) -> None:
    turns = [{"role": "user", "content": "Hi"}, ANSWERED, ASKED, {"role": "tool", "content": "[]"}, ANSWERED]
    (result,) = post(service, input=turns).json()["results"]
    item = Item(text=ANSWERED["content"], kind=Kind.ANSWER, prompt=ASKED["content"])
    assert result["guard"] == service.moderator.judge(item, policy="mistral-9").model_dump(mode="json")


def test_an_answer_without_a_prompt_and_text_chunks(service: Service) -> None:
    chunks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    (result,) = post(service, input=[{"role": "assistant", "content": chunks}]).json()["results"]
    item = Item(text="one\ntwo", kind=Kind.ANSWER)
    assert result["guard"] == service.moderator.judge(item, policy="mistral-9").model_dump(mode="json")


def test_the_policy_refusal_says_whether_it_declined(start: Start) -> None:
    service = start(script=[one_of(3, 1)])
    (result,) = post(service, input=[ASKED, ANSWERED], policy="refusal").json()["results"]
    assert result["categories"] == {"refusal": True, "partial": False}
    assert result["guard"]["policy"] == "refusal" and result["guard"]["score"] == pytest.approx(0.935)


def test_a_policy_by_field_or_as_model(service: Service) -> None:
    by_field = post(service, input=[ASKED], policy="moderation-13", categories=["hate"]).json()["results"]
    assert set(by_field[0]["category_scores"]) == {"hate"}
    assert post(service, input=[ASKED], model="self-reflection").json()["results"][0]["guard"]["policy"] == (
        "self-reflection"
    )


def test_every_model_has_a_shipped_policy(service: Service) -> None:
    assert {policy.id for policy in service.moderator.policies} >= set(POLICY_OF.values())


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": "How?"}, 400, "input"),
        ({"input": [[]]}, 400, "input.0"),
        ({"input": [[ASKED], "x"]}, 400, "input.1"),
        ({"input": [ASKED, "x"]}, 400, "input.1"),
        ({"input": [{"role": "robot", "content": "x"}]}, 400, "input.0.role"),
        ({"input": [{"role": "user"}]}, 400, "input.0.content"),
        ({"input": [{"role": "user", "content": " "}]}, 400, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "input.0.content.0"),
        ({"input": [[ASKED]] * 2000}, 400, "input"),
        ({"input": [ASKED], "model": "gpt"}, 404, "model"),
        ({"input": [ASKED], "model": None}, 400, "model"),
        ({"input": [ASKED], "policy": "refusal"}, 400, "kind"),
        ({"input": [ASKED], "policy": "nobody"}, 400, "policy"),
    ],
)
def test_bad_input_is_told_where_it_is(service: Service, body: dict[str, object], status: int, param: str) -> None:
    assert error_of(post(service, **body), status)["param"] == param
    assert service.engine.seen[1:] == []  # but for the self-test, the engine was asked nothing
