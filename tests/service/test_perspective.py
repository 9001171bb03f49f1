"""Perspective's analysis over a real socket: Google's own client, and what its clients may send that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from googleapiclient import discovery
from googleapiclient.errors import HttpError

from guard import Moderator
from guard.engine.fake import FakeEngine
from guard.item import Item, Kind
from guard.policy import load_policy
from guard.resources import shipped
from guard.service.perspective import ATTRIBUTES, sentences
from guard.tokenizer import load_tokenizer
from tests.service.support import Service, one_of

Start = Callable[..., Service]
FORUM = ["insult", "hate", "threat", "sexual", "self-harm", "spam"]
PATH = "/v1alpha1/comments:analyze"
PROFANITY = load_policy(shipped("prompts") / "perspective" / "profanity.yaml")


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    with discovery.build(
        "commentanalyzer", "v1alpha1", developerKey="none", static_discovery=False,
        discoveryServiceUrl=f"{service.url}/$discovery/rest?version=v1alpha1",
    ) as built:  # fmt: skip
        yield built


def post(service: Service, text: str = "You fool", path: str = PATH, **body: object):  # type: ignore[no-untyped-def]
    body = {"requestedAttributes": {"TOXICITY": {}}, **body}
    return service.http.post(path, params={"key": "k"}, json={"comment": {"text": text}, **body})


def refused(response, status: int, name: str) -> str:  # type: ignore[no-untyped-def]
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "status", "details"} and error["code"] == status
    assert error["status"] == name
    return error["message"]


def test_googles_client_gets_every_attribute(service: Service, client: Any) -> None:
    asked = {name: {} for name in (*ATTRIBUTES, "PROFANITY")}
    body = {
        "comment": {"text": "You fool", "type": "PLAIN_TEXT"}, "requestedAttributes": asked, "languages": ["en"],
        "doNotStore": True, "clientToken": "token",
    }  # fmt: skip
    reply = client.comments().analyze(body=body).execute()
    forum = service.moderator.judge("You fool", policy="forum-comments")
    profane = service.moderator.judge("You fool", policy=PROFANITY)
    expected = {name: sum(forum.category_scores[c] for c in ATTRIBUTES[name]) for name in ATTRIBUTES}
    expected["PROFANITY"] = profane.category_scores["profanity"]
    assert set(reply) == {"attributeScores", "languages", "clientToken", "guard"}
    for name, value in expected.items():
        (span,) = reply["attributeScores"][name]["spanScores"]
        score = {"value": pytest.approx(min(1.0, value)), "type": "PROBABILITY"}
        assert reply["attributeScores"][name]["summaryScore"] == score
        assert span == {"begin": 0, "end": 8, "score": score}
    assert reply["languages"] == ["en"] and reply["clientToken"] == "token"
    assert reply["guard"]["forum-comments"] == forum.model_dump(mode="json", exclude_none=True)


def test_the_discovery_document_names_the_host_that_was_asked(service: Service) -> None:
    document = service.http.get("/$discovery/rest", params={"version": "v1alpha1"}).json()
    assert document["rootUrl"] == f"{service.url}/"
    assert set(document["resources"]["comments"]["methods"]) == {"analyze", "suggestscore"}
    elsewhere = service.http.get("/$discovery/rest", headers={"Host": "guard.example:99"}).json()
    assert elsewhere["rootUrl"] == "http://guard.example:99/"


def test_an_attribute_under_its_threshold_is_left_out(start: Start) -> None:
    service = start(script=[one_of(7, 1, 0.7)])  # an insult
    asked = {"INSULT": {"scoreThreshold": 0.69}, "THREAT": {"scoreThreshold": 0.69}, "TOXICITY": None}
    scores = post(service, requestedAttributes=asked).json()["attributeScores"]
    assert set(scores) == {"INSULT", "TOXICITY"}
    assert scores["TOXICITY"]["summaryScore"]["value"] == pytest.approx(0.7 + 2 * 0.05)


def test_sentences_have_scores_of_their_own(service: Service) -> None:
    text = "I like it. You fool! Bye"
    scores = post(service, text, spanAnnotations=True).json()["attributeScores"]["TOXICITY"]["spanScores"]
    parts = [text[span["begin"] : span["end"]] for span in scores]
    assert parts == ["I like it.", "You fool!", "Bye"]
    for part, span in zip(parts, scores, strict=True):
        verdict = service.moderator.judge(part, policy="forum-comments")
        expected = sum(verdict.category_scores[c] for c in ATTRIBUTES["TOXICITY"])
        assert span["score"]["value"] == pytest.approx(min(1.0, expected))


def test_sentences_of_odd_texts() -> None:
    for text in ("", " ", "...", "one", "a.b.c d? e", "Wait... what?!\n\nno", "3.14 is it. \N{CAT FACE} Yes."):
        parts = [text[begin:end] for begin, end in sentences(text)]
        assert "".join("".join(parts).split()) == "".join(text.split())
    assert [("Is 3.5 much? No…\nOk"[b:e]) for b, e in sentences("Is 3.5 much? No…\nOk")] == [
        "Is 3.5 much?",
        "No…",
        "Ok",
    ]


def test_a_reply_is_judged_as_one(service: Service) -> None:
    context = {"entries": [{"text": "An older one"}, {"text": "Nice weather", "type": "PLAIN_TEXT"}]}
    found = post(service, context=context).json()["guard"]["forum-comments"]
    item = Item(text="You fool", kind=Kind.COMMENT, parent="Nice weather")
    expected = service.moderator.judge(item, policy="forum-comments")
    assert found == expected.model_dump(mode="json", exclude_none=True)


def test_another_policy_has_attributes_by_its_ids(service: Service) -> None:
    asked = {"TOXICITY": {}, "SELF_HARM_INTENT": {}}
    reply = post(service, policy="moderation-13", requestedAttributes=asked).json()
    item = Item(text="You fool", kind=Kind.COMMENT)
    verdict = service.moderator.judge(item, policy="moderation-13")
    scores = {name: found["summaryScore"]["value"] for name, found in reply["attributeScores"].items()}
    assert scores == {
        "TOXICITY": pytest.approx(verdict.score),
        "SELF_HARM_INTENT": pytest.approx(verdict.category_scores["self-harm/intent"]),
    }
    message = refused(post(service, policy="moderation-13", requestedAttributes={"X": {}}), 400, "INVALID_ARGUMENT")
    assert "SELF_HARM_INTENT" in message and "PROFANITY" not in message


def test_swear_words_are_profanity_and_words_that_hold_them_are_not() -> None:
    acceptable = FakeEngine([[0.99, 0.01]] * len(PROFANITY.tests))
    moderator = Moderator(acceptable, load_tokenizer(shipped("models") / "embedded"))
    for case in PROFANITY.tests:
        verdict = moderator.judge(case.text, policy=PROFANITY)
        assert verdict.accepted == (case.expect == "accepted"), case.text


def test_corrections_go_to_the_operators_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "suggestions.jsonl"
    service = start(suggestions=file)
    client = discovery.build(
        "commentanalyzer", "v1alpha1", developerKey="none", static_discovery=False,
        discoveryServiceUrl=f"{service.url}/$discovery/rest?version=v1alpha1",
    )  # fmt: skip
    body = {
        "comment": {"text": "Grüße \N{CAT FACE}"}, "clientToken": "t", "communityId": "c",
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.1}}},
    }  # fmt: skip
    with client:
        assert client.comments().suggestscore(body=body).execute() == {"clientToken": "t"}
        client.comments().suggestscore(body=body).execute()
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert first["comment"]["text"] == "Grüße \N{CAT FACE}" and first["attributeScores"] == body["attributeScores"]
    assert first["received"] < second["received"]


def test_corrections_are_refused_where_no_file_is_named(service: Service, client: Any) -> None:
    body = {"comment": {"text": "x"}, "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.1}}}}
    with pytest.raises(HttpError) as caught:
        client.comments().suggestscore(body=body).execute()
    assert caught.value.status_code == 501 and "suggestions" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"comment": None}, {"comment": {}}, {"comment": {"text": 5}}, {"comment": {"text": " "}}, {"comment": "x"},
        {"requestedAttributes": {}}, {"requestedAttributes": None}, {"requestedAttributes": {"NOPE": {}}},
        {"requestedAttributes": {"TOXICITY": {"scoreThreshold": 2}}}, {"policy": "nope"}, {"policy": "refusal"},
        {"context": {"entries": [{}]}}, {"comment": {"text": "x", "type": "AUDIO"}},
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_google_says_it(service: Service, body: dict[str, Any]) -> None:
    response = service.http.post(PATH, json={"comment": {"text": "x"}, "requestedAttributes": {"TOXICITY": {}}, **body})
    refused(response, 400, "INVALID_ARGUMENT")


def test_broken_bodies_and_a_full_or_broken_service(start: Start) -> None:
    service = start(max_body_mb=0.01, queue_tokens=60)
    refused(service.http.post(PATH, content=b"\xff"), 400, "INVALID_ARGUMENT")
    refused(post(service, "x" * 20_000), 413, "INVALID_ARGUMENT")
    response = post(service, "One. Two. Three.", spanAnnotations=True)
    assert response.status_code in (400, 429) and set(response.json()["error"]) >= {"code", "status"}
    service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
    assert "engine" in refused(post(service, "poison"), 500, "INTERNAL").lower()
