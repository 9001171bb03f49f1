"""SGLang's scoring endpoint over a real socket: what the engine is asked, and that its answer is what comes back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.engine.request import Request
from guard.errors import EngineError, NotReady
from guard.keys import KeyBook
from guard.moderator import Moderator
from guard.service.app import create_app
from guard.service.sglang import ScoringRequest, ScoringResponse, Usage
from guard.settings import Settings
from tests.service.support import Service, error_of, listening, until

PATH = "/v1/score"
LABELS = [301, 17, 4000]
Start = Callable[..., Service]


def post(service: Service, **body: object) -> httpx.Response:
    return service.http.post(
        PATH, json={"query": "Is it rude?", "items": ["You fool"], "label_token_ids": LABELS, **body}
    )


def asked(service: Service, *segments: str, labels: list[int] = LABELS) -> Request:
    """What the engine should be asked about these texts."""
    ids = tuple(tuple(service.tokenizer.encode(text)) for text in segments)
    return Request(ids, tuple((label,) for label in labels), service.tokenizer.terminator)


def test_texts_are_scored_in_the_order_of_items_and_labels(service: Service) -> None:
    body = post(service, items=["You fool", " Thank you"], model="any/Name-7B").json()
    requests = [asked(service, "Is it rude?", text) for text in ("You fool", " Thank you")]
    assert service.engine.seen[-2:] == requests
    expected = [[math.exp(value) for value in answer] for answer in service.moderator.score(requests)]  # type: ignore[union-attr]
    read = sum(len(segment) for request in requests for segment in request.segments)
    assert body == {
        "scores": expected, "model": "any/Name-7B", "object": "scoring",
        "usage": {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0},
    }  # fmt: skip


def test_one_item_may_stand_alone_and_model_may_be_left_out(service: Service) -> None:
    body = post(service, items="You fool").json()
    assert body == post(service, model="default").json() and len(body["scores"]) == 1


def test_token_ids_are_taken_as_they_are(service: Service) -> None:
    query, item = service.tokenizer.encode("Is it rude?"), service.tokenizer.encode("You fool")
    assert post(service, query=query, items=[item]).json() == post(service).json()
    control = service.tokenizer.frame()[0]
    assert post(service, query=control, items=[[5], [6, 7]]).status_code == 200
    assert [request.segments for request in service.engine.seen[-2:]] == [
        (tuple(control), (5,)),
        (tuple(control), (6, 7)),
    ]


def test_what_reads_like_a_control_token_in_a_text_is_none(service: Service) -> None:
    literal = next(text for text in service.tokenizer.literals if text.startswith("<"))
    assert post(service, query=literal).status_code == 200
    control = {id_ for side in service.tokenizer.frame() for id_ in side} - {
        *service.tokenizer.encode("user assistant\n")
    }
    assert control and control.isdisjoint(service.engine.seen[-1].segments[0])


def test_an_item_may_come_first(service: Service) -> None:
    assert post(service, item_first=True).status_code == 200
    assert service.engine.seen[-1] == asked(service, "You fool", "Is it rude?")


def test_softmax_is_over_the_labels(start: Start) -> None:
    service = start(script=[[0.1, 0.3, 1e-12], [0.1, 0.3, 1e-12]])
    (plain,), (among,) = post(service).json()["scores"], post(service, apply_softmax=True).json()["scores"]
    assert plain == pytest.approx([0.1, 0.3, 1e-12])
    assert among == pytest.approx([0.25, 0.75, 2.5e-12]) and sum(among) == pytest.approx(1)


def test_no_items_have_no_scores(service: Service) -> None:
    before = len(service.engine.seen)
    assert post(service, items=[]).json() == {
        "scores": [], "model": "default", "object": "scoring",
        "usage": {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0},
    }  # fmt: skip
    assert len(service.engine.seen) == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ""}, "query"), ({"query": []}, "query"), ({"query": None}, "query"), ({"query": {"a": 1}}, "query"),
        ({"items": [""]}, "items.0"), ({"items": "", }, "items"), ({"items": None}, "items"), ({"items": 5}, "items"),
        ({"items": ["x", 5]}, "items.1"), ({"items": ["x", [5]]}, "items.1"), ({"items": [[5]]}, "items.0"),
        ({"query": [5], "items": ["x"]}, "items.0"), ({"query": [5], "items": "x"}, "items"),
        ({"query": [5], "items": [[]]}, "items.0"), ({"query": [5], "items": [5]}, "items.0"),
        ({"query": [5], "items": [[5], [5, True]]}, "items.1.1"), ({"query": [5.0], "items": [[5]]}, "query.0"),
        ({"query": [5, -1], "items": [[5]]}, "query.1"), ({"query": [2**20], "items": [[5]]}, "query.0"),
        ({"label_token_ids": []}, "label_token_ids"), ({"label_token_ids": None}, "label_token_ids"),
        ({"label_token_ids": [5, 6, 5]}, "label_token_ids"), ({"label_token_ids": ["5"]}, "label_token_ids.0"),
        ({"label_token_ids": [5, 2**20]}, "label_token_ids.1"), ({"label_token_ids": [-1]}, "label_token_ids.0"),
        ({"apply_softmax": "yes"}, "apply_softmax"), ({"item_first": 1}, "item_first"), ({"model": 5}, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_name(service: Service, body: dict[str, object], param: str) -> None:
    before = len(service.engine.seen)
    error = error_of(post(service, **body), 400)
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert len(service.engine.seen) == before


def test_what_is_missing_or_no_text_is_refused(service: Service) -> None:
    for name in ("query", "items", "label_token_ids"):
        body: dict[str, Any] = {"query": "x", "items": ["x"], "label_token_ids": [5]}
        del body[name]
        assert error_of(service.http.post(PATH, json=body), 400)["param"] == name
    lone = b'{"query": "x", "items": ["a", "\\ud800"], "label_token_ids": [5]}'
    assert error_of(service.http.post(PATH, content=lone), 400)["param"] == "items.1"


def test_limits(start: Start) -> None:
    service = start(max_inputs=3, max_body_mb=0.1, queue_tokens=100)
    service.engine.max_tokens = 60
    assert post(service, items=["x"] * 3).status_code == 200
    assert error_of(post(service, items=["x"] * 4), 400)["param"] == "items"
    assert error_of(post(service, items="x" * 200_000), 413)
    longest = [5] * (60 - 1 - 10)
    assert post(service, query=[5] * 10, items=[longest]).status_code == 200
    assert error_of(post(service, query=[5] * 10, items=[[5], [*longest, 5]]), 400)["param"] == "items.1"
    assert error_of(post(service, query=[5] * 10, items=[longest, longest]), 400)["param"] == "items", "the whole queue"


def test_many_requests_are_scored_together_and_a_full_queue_refuses(start: Start) -> None:
    service = start(queue_tokens=40)
    service.engine.hold()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, service, query=[5], items=[[6]])
        assert service.engine.entered.wait(30)
        others = [pool.submit(post, service, query=[7], items=[[8] * 9, [9] * 9]) for _ in range(2)]
        until(lambda: service.desk.scoring.waiting == 40)
        refused = post(service, query=[5], items=[[6]])
        assert error_of(refused, 429)["code"] == "rate_limit_exceeded" and int(refused.headers["retry-after"]) >= 1
        service.engine.go()
        assert [answer.result().status_code for answer in (first, *others)] == [200] * 3
    assert service.engine.batches[-2:] == [1, 4]


def test_a_failure_is_an_error_that_names_the_item(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.engine.poison = (service.tokenizer.encode("secret words"), ValueError("secret words"))
    with caplog.at_level(logging.INFO):
        error = error_of(post(service, items=["fine", "secret words"]), 500)
        assert (error["code"], error["param"]) == ("engine_error", "items.1")
        assert post(service, items=["fine"], query="a secret").status_code == 200
    assert "secret" not in str(error) and "secret" not in caplog.text and "scored=1" in caplog.text


def test_an_engine_that_is_being_started_again_is_not_ready(service: Service) -> None:
    service.engine.poison = (service.tokenizer.encode("You fool"), NotReady("It starts."))
    assert error_of(post(service), 503)["code"] == "not_ready"


def test_an_answer_that_is_no_probability_is_an_error(start: Start) -> None:
    service = start(script=[EngineError("The model is broken.", hint="Mend it.")])
    assert error_of(post(service), 500)["message"] == "The model is broken. Mend it."


def test_a_key_that_is_bound_to_a_policy_may_not_ask_past_it(start: Start, tmp_path: Path) -> None:
    with KeyBook(tmp_path / "keys") as book:
        _, free = book.create("free", tokens_per_minute=1000)
        _, bound = book.create("bound", policy="mistral-9")
    service = start(keys=tmp_path / "keys")

    def scored(secret: str) -> httpx.Response:
        body = {"query": [5], "items": [[6]], "label_token_ids": LABELS}
        return service.http.post(PATH, json=body, headers={"authorization": f"Bearer {secret}"})

    assert error_of(scored(bound), 403)["code"] == "not_permitted"
    assert scored(free).status_code == 200 and scored(free).headers["x-ratelimit-remaining-tokens"] == "996"


def test_the_embedded_model_says_over_http_what_it_says_directly() -> None:
    settings = Settings()
    moderator = Moderator.load(settings)
    query, items = "The weather is", [" fine", " bad", " a long story that"]
    labels = [moderator.tokenizer.encode(text)[0] for text in (" today", " not", " the")]
    requests = [
        Request(
            (tuple(moderator.tokenizer.encode(query)), tuple(moderator.tokenizer.encode(item))),
            tuple((label,) for label in labels),
            moderator.tokenizer.terminator,
        )
        for item in items
    ]
    direct = [[math.exp(value) for value in answer] for answer in moderator.engine.score(requests)]  # type: ignore[union-attr]
    with listening(create_app(moderator, settings)) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"query": query, "items": items, "label_token_ids": labels}
        plain = http.post(PATH, json=body).json()["scores"]
        among = http.post(PATH, json={**body, "apply_softmax": True}).json()["scores"]
        outside = {**body, "label_token_ids": [moderator.engine.vocab_size]}
        assert error_of(http.post(PATH, json=outside), 400)["param"] == "label_token_ids.0"
    for found, shares, expected in zip(plain, among, direct, strict=True):
        assert found == pytest.approx(expected, rel=1e-5) and 0 < sum(found) < 1
        assert shares == pytest.approx([value / sum(expected) for value in expected], rel=1e-5)


def test_every_field_is_described() -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
    section = text.partition(f"## POST {PATH}")[2].partition("\n## ")[0]
    for name in (*ScoringRequest.model_fields, *ScoringResponse.model_fields, *Usage.model_fields):
        assert name in section, name
