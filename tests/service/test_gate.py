"""Keys over a real socket: who gets in, with which client, under which policy, how often, and what an answer may do."""

from __future__ import annotations

import logging
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from guard.errors import InvalidSettings
from guard.keys import Fail, KeyBook, Mode
from guard.moderator import Moderator
from guard.service import litellm
from guard.service.app import create_app
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from tests.service.support import Engine, Service, error_of, one_of, until

Start = Callable[..., Service]
CHAT = [{"role": "user", "content": "poison"}]
# By wire format: path, and a body with the text "poison".
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/moderations", {"input": "poison"}),
    "mistral": ("/v1/moderations", {"input": "poison", "model": "mistral-moderation-latest"}),
    "chat": ("/v1/chat/moderations", {"input": CHAT, "model": "mistral-moderation-latest"}),
    "litellm": (litellm.PATH, {"input_type": "request", "texts": ["poison"]}),
    "perspective": (
        "/v1alpha1/comments:analyze",
        {"comment": {"text": "poison"}, "requestedAttributes": {"INSULT": {}, "TOXICITY": {}}},
    ),
}
EVERY = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[KeyBook]:
    with KeyBook(tmp_path / "keys.sqlite") as opened:
        yield opened


@pytest.fixture
def guarded(start: Start, book: KeyBook, tmp_path: Path) -> Service:
    """A service that asks for a key of `book`."""
    return start(keys=tmp_path / "keys.sqlite")


def ask(service: Service, dialect: str, secret: str | None = None, **changed: Any) -> httpx.Response:
    path, body = DIALECTS[dialect]
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return service.http.post(path, json=body | changed, headers=headers)


def verdict_of(dialect: str, answer: dict[str, Any]) -> dict[str, Any]:
    match dialect:
        case "litellm":
            (found,) = answer["guard"]
        case "perspective":
            (found,) = answer["guard"].values()
        case _:
            found = answer["results"][0]["guard"]
    return found


def nothing_found(dialect: str, answer: dict[str, Any]) -> bool:
    match dialect:
        case "litellm":
            return answer["action"] == "NONE" and answer["blocked_reason"] is None
        case "perspective":
            return True  # scores are all that it has
    (result,) = answer["results"]
    return not result.get("flagged", False) and not any(result["categories"].values())


def break_engine(service: Service) -> None:
    service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))


# ---- who gets in


def test_openais_client(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum")
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=secret, max_retries=0) as client:
        assert client.moderations.create(input="x").results and list(client.models.list())
    with pytest.raises(openai.AuthenticationError) as refused:
        guarded.sdk.moderations.create(input="x")
    assert refused.value.code == "invalid_api_key"
    assert refused.value.response.headers["www-authenticate"] == 'Bearer realm="guard"'
    assert refused.value.request_id, "the envelope's headers are on it, too"


def test_mistrals_client(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum")
    with Mistral(api_key=secret, server_url=guarded.url) as client:
        assert client.classifiers.moderate(model="mistral-moderation-latest", inputs=["x"]).results
    with Mistral(api_key="none", server_url=guarded.url) as client, pytest.raises(SDKError) as refused:
        client.classifiers.moderate(model="mistral-moderation-latest", inputs=["x"])
    assert refused.value.status_code == 401


def test_googles_client(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum")

    def analyzed(key: str) -> Any:
        with discovery.build(
            "commentanalyzer", "v1alpha1", developerKey=key, static_discovery=False,
            discoveryServiceUrl=f"{guarded.url}/$discovery/rest?version=v1alpha1",
        ) as client:  # fmt: skip
            return client.comments().analyze(body=DIALECTS["perspective"][1]).execute()

    assert set(analyzed(secret)["attributeScores"]) == {"INSULT", "TOXICITY"}
    with pytest.raises(HttpError) as refused:
        analyzed("none")
    assert refused.value.resp.status == 401 and refused.value.resp["www-authenticate"].startswith("Bearer ")
    assert refused.value.error_details == [{"reason": "invalid_api_key", "param": None}]
    assert b'"status":"UNAUTHENTICATED"' in refused.value.content and refused.value.resp["x-request-id"]


@EVERY
def test_without_a_key_nothing_is_judged(guarded: Service, book: KeyBook, dialect: str) -> None:
    revoked, secret = book.create("forum")
    assert ask(guarded, dialect, secret).status_code == 200
    book.revoke(revoked.id)
    asked = len(guarded.engine.seen)
    for wrong in (None, secret, secret[:-1], "none"):
        answer = ask(guarded, dialect, wrong)
        assert answer.status_code == 401 and answer.headers["x-request-id"], wrong
    assert len(guarded.engine.seen) == asked


@pytest.mark.parametrize("form", ["bearer {}", "Bearer   {}", "BEARER {}"])
def test_where_a_secret_may_stand(guarded: Service, book: KeyBook, form: str) -> None:
    _, secret = book.create("forum")

    def status(headers: dict[str, str], **query: str) -> int:
        return guarded.http.get("/v1/models", headers=headers, params=query).status_code

    good, bad = form.format(secret), form.format("none")
    assert status({"Authorization": good}) == status({"x-api-key": secret}) == status({}, key=secret) == 200
    assert status({"Authorization": f"Basic {secret}"}) == status({"Authorization": secret}) == 401
    assert status({"Authorization": "Basic eA=="}, key=secret) == 200, "somebody else's header"
    assert status({"Authorization": bad, "x-api-key": secret}) == 401, "the first that is there counts"


def test_what_is_open_and_what_is_not(guarded: Service) -> None:
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/$discovery/rest"):
        assert guarded.http.get(path).status_code == 200
    for path in ("/v1/models", "/v1/models/x", "/nowhere", "/healthz/", "/healthz%0a", "/v1alpha1/x"):
        assert guarded.http.get(path).status_code == 401, path


def test_it_is_settled_before_the_body_is_read(guarded: Service) -> None:
    address = ("127.0.0.1", int(guarded.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_no_log_holds_a_secret(guarded: Service, book: KeyBook, caplog: pytest.LogCaptureFixture) -> None:
    key, secret = book.create("forum")
    path, body = DIALECTS["perspective"]
    with caplog.at_level(logging.DEBUG):
        assert guarded.http.post(path, params={"key": secret}, json=body).status_code == 200
        assert guarded.http.post(path, params={"key": secret[:-1]}, json=body).status_code == 401
        ask(guarded, "openai", secret)
    served = [record.getMessage() for record in caplog.records if record.name.startswith(("guard", "uvicorn"))]
    assert any(f"key={key.id} mode=enforce policy=forum-comments" in line for line in served)
    assert not [line for line in served if secret[:-1].rpartition("_")[2] in line or "gk_" in line]


def test_a_file_of_keys_that_is_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("missing", "broken"):
        (tmp_path / "broken").write_text("no database" * 100)
        settings = Settings(keys=tmp_path / name)
        with pytest.raises(InvalidSettings):
            create_app(Moderator(Engine(), tokenizer, settings=settings), settings)


def test_a_file_of_keys_that_goes_bad_lets_nobody_in(
    guarded: Service, book: KeyBook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = book.create("forum")
    with closing(sqlite3.connect(tmp_path / "keys.sqlite")) as other:
        other.execute("DROP TABLE keys")
    error = error_of(ask(guarded, "openai", secret), 503)
    assert error["code"] == "not_ready" and "sqlite" not in str(error["message"])
    assert "the keys cannot be read: OperationalError" in caplog.text


# ---- how often


@EVERY
def test_requests_beyond_the_limit_wait(guarded: Service, book: KeyBook, dialect: str) -> None:
    _, secret = book.create("forum", requests_per_minute=2)
    other = book.create("other", requests_per_minute=2)[1]
    first = ask(guarded, dialect, secret).headers
    assert first["x-ratelimit-limit-requests"] == "2" and first["x-ratelimit-remaining-requests"] == "1"
    assert first["x-ratelimit-reset-requests"] == "30s" and "x-ratelimit-limit-tokens" not in first
    assert ask(guarded, dialect, secret).status_code == 200
    refused = ask(guarded, dialect, secret)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0" and refused.headers["x-request-id"]
    error = refused.json()["error"]
    if dialect == "perspective":
        assert error["status"] == "RESOURCE_EXHAUSTED" and error["details"][0]["reason"] == "rate_limit_exceeded"
    else:
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert ask(guarded, dialect, other).status_code == 200


@EVERY
def test_tokens_beyond_the_limit_wait(guarded: Service, book: KeyBook, dialect: str) -> None:
    _, secret = book.create("forum", tokens_per_minute=3)  # `poison` is two
    first = ask(guarded, dialect, secret)
    assert first.status_code == 200 and first.headers["x-ratelimit-remaining-tokens"] == "1"
    refused = ask(guarded, dialect, secret)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["x-ratelimit-limit-tokens"] == "3" and "x-ratelimit-limit-requests" not in refused.headers


def test_openais_client_knows_a_limit(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum", tokens_per_minute=5, requests_per_minute=600)
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=secret, max_retries=0) as client:
        raw = client.moderations.with_raw_response.create(input=["x" * 100, "y"])  # from a full bucket, on credit
        assert raw.headers["x-ratelimit-remaining-tokens"] == "0"
        assert raw.headers["x-ratelimit-reset-tokens"] == "5m12s"
        with pytest.raises(openai.RateLimitError) as refused:
            client.moderations.create(input="x")
    assert refused.value.code == "rate_limit_exceeded"
    assert 240 < int(refused.value.response.headers["retry-after"]) <= 264


def test_what_is_refused_for_its_form_costs_no_tokens(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum", tokens_per_minute=2)
    assert ask(guarded, "openai", secret, policy="nope").status_code == 400
    assert ask(guarded, "openai", secret).status_code == 200


# ---- by which policy


def chosen(dialect: str, **params: Any) -> dict[str, Any]:
    return {"additional_provider_specific_params": params} if dialect == "litellm" else params


@pytest.mark.parametrize("dialect", ["openai", "mistral", "chat", "litellm"])
def test_a_key_is_bound_to_a_policy_and_categories(guarded: Service, book: KeyBook, dialect: str) -> None:
    _, secret = book.create("forum", policy="mistral-11", categories=["pii", "sexual"])

    def asked(**params: Any) -> httpx.Response:
        return ask(guarded, dialect, secret, **chosen(dialect, **params))

    for params in ({}, {"policy": "mistral-11"}, {"categories": ["sexual", "pii"]}):
        verdict = verdict_of(dialect, asked(**params).json())
        assert (verdict["policy"], set(verdict["category_scores"])) == ("mistral-11", {"pii", "sexual"})
    narrower = verdict_of(dialect, asked(categories=["pii"]).json())
    assert set(narrower["category_scores"]) == {"pii"}
    refused = [asked(policy="mistral-9"), asked(categories=["pii", "health"])]
    assert [error_of(r, 403)["code"] for r in refused] == ["not_permitted"] * 2
    assert [error_of(r, 403)["param"] for r in refused] == ["policy", "categories"]


def test_a_model_that_is_a_policys_id_names_a_policy(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum", policy="mistral-11")
    for dialect in ("openai", "chat"):
        assert ask(guarded, dialect, secret, model="mistral-11").status_code == 200
        error_of(ask(guarded, dialect, secret, model="mistral-9"), 403)


def test_perspective_keeps_its_own_policies(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("forum", policy="mistral-11", categories=["pii"])
    assert verdict_of("perspective", ask(guarded, "perspective", secret).json())["policy"] == "forum-comments"


def test_a_key_of_any_policy_leaves_the_choice(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("any")
    assert verdict_of("openai", ask(guarded, "openai", secret).json())["policy"] == "moderation-13"
    assert verdict_of("openai", ask(guarded, "openai", secret, policy="mistral-9").json())["policy"] == "mistral-9"


# ---- what an answer may do


@EVERY
def test_in_shadow_mode_nothing_is_found(start: Start, book: KeyBook, tmp_path: Path, dialect: str) -> None:
    labels = {"mistral": 10, "chat": 10, "perspective": 7}.get(dialect, 14)
    service = start(script=[one_of(labels, 1)] * 2, keys=tmp_path / "keys.sqlite")
    enforced = ask(service, dialect, book.create("a")[1])
    shadowed = ask(service, dialect, book.create("b", mode=Mode.SHADOW)[1])
    assert "x-guard-mode" not in enforced.headers and shadowed.headers["x-guard-mode"] == "shadow"
    assert nothing_found(dialect, shadowed.json())
    assert nothing_found(dialect, enforced.json()) is (dialect == "perspective")
    assert verdict_of(dialect, shadowed.json()) == verdict_of(dialect, enforced.json())
    assert verdict_of(dialect, shadowed.json())["decision"] != "allow"
    if "results" in shadowed.json():
        scores = [r.json()["results"][0]["category_scores"] for r in (enforced, shadowed)]
        assert scores[0] == scores[1] and max(scores[1].values()) > 0.5


@EVERY
def test_what_could_not_be_judged_passes_if_the_key_says_so(guarded: Service, book: KeyBook, dialect: str) -> None:
    break_engine(guarded)
    closed = ask(guarded, dialect, book.create("a")[1])
    assert closed.status_code == 500 and closed.headers["x-guard-failed-closed"] == "engine_error"
    opened = ask(guarded, dialect, book.create("b", fail=Fail.OPEN)[1])
    assert opened.status_code == 200 and opened.headers["x-guard-failed-open"] == "engine_error"
    assert "x-guard-failed-closed" not in opened.headers
    answer = opened.json()
    assert nothing_found(dialect, answer)
    verdict = verdict_of(dialect, answer)
    assert (verdict["decision"], verdict["error"]["code"]) == ("error", "engine_error")
    match dialect:
        case "perspective":
            scores = [found["summaryScore"]["value"] for found in answer["attributeScores"].values()]
        case "litellm":
            scores = [0.0]
        case _:
            scores = list(answer["results"][0]["category_scores"].values())
    assert scores and not any(scores)


def test_official_clients_read_what_passed_unjudged(guarded: Service, book: KeyBook) -> None:
    break_engine(guarded)
    _, secret = book.create("b", fail=Fail.OPEN)
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=secret, max_retries=0) as client:
        fine, failed = client.moderations.create(input=["fine", "poison"]).results
    assert fine.to_dict()["guard"]["decision"] != "error" and failed.flagged is False  # type: ignore[index]
    with Mistral(api_key=secret, server_url=guarded.url) as mistral:
        (result,) = mistral.classifiers.moderate(model="mistral-moderation-latest", inputs=["poison"]).results
    policy = guarded.moderator.policies.get("mistral-9")
    assert result.category_scores == {category.id: 0.0 for category in policy.categories}


@EVERY
def test_a_dead_worker_fails_open_or_closed(guarded: Service, book: KeyBook, dialect: str) -> None:
    guarded.engine.poison = (guarded.tokenizer.encode("poison"), SystemExit(1))
    closed, opened = book.create("a")[1], book.create("b", fail=Fail.OPEN)[1]
    for _ in range(2):  # the one that it dies of, and the next
        answer = ask(guarded, dialect, opened)
        assert answer.status_code == 200 and answer.headers["x-guard-failed-open"] == "not_ready"
    answer = ask(guarded, dialect, closed)
    assert answer.status_code == 503 and answer.headers["x-guard-failed-closed"] == "not_ready"


@pytest.mark.parametrize(
    ("setting", "code"), [({"deadline_seconds": 0.3}, "deadline_exceeded"), ({"queue_tokens": 60}, "overloaded")]
)
def test_a_busy_service_fails_open_or_closed(
    start: Start, book: KeyBook, tmp_path: Path, setting: dict[str, Any], code: str
) -> None:
    service = start(keys=tmp_path / "keys.sqlite", **setting)
    closed, opened = book.create("a")[1], book.create("b", fail=Fail.OPEN)[1]
    full = ["a", "b"]
    service.engine.hold()
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(ask, service, "openai", closed)
        assert service.engine.entered.wait(30)
        if code == "overloaded":
            pool.submit(ask, service, "openai", closed, input=full)
            until(lambda: service.waiting(*full))
        passed, failed = ask(service, "openai", opened), ask(service, "openai", closed)
        service.engine.go()
        assert begun.result().status_code == 200
    assert passed.status_code == 200 and passed.headers["x-guard-failed-open"] == code
    assert nothing_found("openai", passed.json())
    assert failed.status_code in (429, 503) and failed.headers["x-guard-failed-closed"] == code


def test_a_caller_who_is_wrong_is_told_so_by_a_key_that_fails_open(guarded: Service, book: KeyBook) -> None:
    _, secret = book.create("b", fail=Fail.OPEN)
    refused = ask(guarded, "openai", secret, input="  ")
    assert error_of(refused, 400)["code"] == "invalid_item" and "x-guard-failed-open" not in refused.headers


def test_without_keys_the_settings_say_what_an_answer_may_do(start: Start) -> None:
    service = start(mode="shadow", fail="open")
    answer = ask(service, "openai")
    assert answer.headers["x-guard-mode"] == "shadow" and nothing_found("openai", answer.json())
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    break_engine(service)
    assert ask(service, "openai").headers["x-guard-failed-open"] == "engine_error"
    plain = ask(start(), "openai", "whatever is sent").headers
    assert not [name for name in plain if name.startswith(("x-guard", "x-ratelimit"))]
