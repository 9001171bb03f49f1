"""The application around the endpoints: health, headers, errors that the framework would answer, and the log."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from guard.errors import STATUS, EngineError
from guard.moderator import Moderator
from guard.service import batcher, desk
from guard.service.app import create_app
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from tests.service.support import Engine, Service, error_of, listening, until

Start = Callable[..., Service]


def test_health_and_readiness(service: Service) -> None:
    assert service.http.get("/healthz").status_code == 200
    assert service.http.get("/readyz").status_code == 200
    assert len(service.engine.seen) == 1, "the self-test asked the engine"


def test_not_ready_before_the_self_test_has_passed(tokenizer: Tokenizer) -> None:
    engine = Engine()
    engine.hold()
    app = create_app(Moderator(engine, tokenizer), Settings())
    with listening(app) as url, httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(1) as pool:
        assert http.get("/healthz").status_code == 200
        error = error_of(http.get("/readyz"), 503)
        assert (error["type"], error["code"]) == ("server_error", "not_ready")
        early = pool.submit(http.post, "/v1/moderations", json={"input": "x"})
        with pytest.raises(TimeoutError):
            early.result(timeout=0.3)
        engine.go()
        assert early.result().status_code == 200, "an early request waits for the self-test"
        assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("answer", [EngineError("No weights."), [float("nan")] * 14], ids=["error", "no probability"])
def test_a_failed_self_test_is_repeated_until_it_passes(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, answer: EngineError | list[float]
) -> None:
    monkeypatch.setattr(desk, "_SELF_TEST_AGAIN", 0.02)
    engine = Engine([answer] * 10_000)
    with listening(create_app(Moderator(engine, tokenizer), Settings())) as url, httpx.Client(base_url=url) as http:
        assert error_of(http.post("/v1/moderations", json={"input": "x"}), 503)["code"] == "not_ready"
        assert "self-test failed" in str(error_of(http.get("/readyz"), 503)["message"])
        assert http.get("/healthz").status_code == 200
        engine.answer_by_hash()
        until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/v1/moderations", json={"input": "x"}).status_code == 200


def test_a_worker_that_dies_is_noticed_and_started_again(service: Service) -> None:
    service.engine.poison = (service.tokenizer.encode("deadly"), SystemExit(1))
    service.engine.hold()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(service.post, input="deadly")
        assert service.engine.entered.wait(30)
        asked = [pool.submit(service.post, input=["deadly", "x"]) for _ in range(7)]
        until(lambda: service.waiting(*["deadly", "x"] * 7))
        service.engine.go()
        for answer in (first, *asked):
            assert error_of(answer.result(), 503)["code"] == "not_ready"
    assert service.http.get("/readyz").status_code == 200
    assert service.sdk.moderations.create(input="later").results
    with pytest.raises(openai.InternalServerError):
        service.sdk.moderations.create(input="deadly")
    assert service.post(input="later still").status_code == 200


def test_a_request_that_waits_too_long_is_told_so(start: Start) -> None:
    service = start(deadline_seconds=0.3)
    service.engine.hold()
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(service.post, input="first")
        assert service.engine.entered.wait(30)
        error = error_of(service.post(input="second"), 503)
        assert (error["type"], error["code"]) == ("server_error", "deadline_exceeded")
        assert service.desk.batcher.waiting == 0
        service.engine.go()
        assert begun.result().status_code == 200


def test_the_work_of_a_client_who_hangs_up_is_dropped(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.engine.hold()
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        first = pool.submit(service.post, input="first")
        assert service.engine.entered.wait(30)
        body = b'{"input": ["abandoned", "forsaken"]}'
        with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as client:
            client.sendall(b"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: service.waiting("abandoned", "forsaken"))
        until(lambda: service.waiting())
        service.engine.go()
        assert first.result().status_code == 200
    assert service.post(input="later").status_code == 200
    assert service.saw("later") and not service.saw("abandoned") and not service.saw("forsaken")
    assert "POST /v1/moderations gone" in caplog.text


def test_a_stopping_server_answers_those_who_still_wait(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "_CLOSING", 0.1)
    engine = Engine()
    app = create_app(Moderator(engine, tokenizer), Settings())
    with ThreadPoolExecutor(1) as pool:
        with listening(app, grace=1) as url, httpx.Client(base_url=url, timeout=60) as http:
            until(lambda: http.get("/readyz").status_code == 200)
            engine.hold()
            asked = pool.submit(httpx.post, f"{url}/v1/moderations", json={"input": "x"}, timeout=60)
            assert engine.entered.wait(30)
        engine.go()
        assert error_of(asked.result(), 503)["code"] == "not_ready"


def test_what_the_router_refuses_has_the_error_object_too(service: Service) -> None:
    for path in ("/v1", "/v1/moderations/", "/v1/models/a/b", "/v1/chat", "/docs", "/%ff%00"):
        error = error_of(service.http.get(path), 404)
        assert (error["code"], error["type"], error["param"]) == ("unknown_path", "invalid_request_error", None)
    refused = service.http.get("/v1/moderations")
    assert error_of(refused, 405)["code"] == "method_not_allowed" and refused.headers["allow"] == "POST"
    assert error_of(service.http.delete("/v1/models"), 405)


def test_an_unexpected_error_is_a_500_without_a_word(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(service.moderator.policies, "get", broken)
    with caplog.at_level(logging.INFO):
        response = service.post(input="a secret")
    error = error_of(response, 500)
    assert error == {"message": "The service failed.", "type": "server_error", "param": None, "code": "internal_error"}
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text


def test_headers(service: Service) -> None:
    first, second = service.http.get("/v1/models").headers, service.http.get("/nowhere").headers
    assert first["x-request-id"].startswith("req_") and first["x-request-id"] != second["x-request-id"]
    for headers in (first, second):
        assert headers["openai-version"] == "2020-10-01" and int(headers["openai-processing-ms"]) >= 0

    def echoed(wanted: str) -> bool:
        response = service.http.get("/healthz", headers={"X-Client-Request-Id": wanted})
        return response.headers["x-request-id"] == wanted

    assert echoed("9f1c:trace-7.a_b")
    assert not any(map(echoed, ["", "with space", "a" * 129, "<script>", "a\tb"]))
    raw = service.sdk.moderations.with_raw_response.create(input="x", extra_headers={"X-Client-Request-Id": "mine"})
    assert raw.request_id == "mine" and raw.parse().results


def test_the_log_names_lengths_and_outcomes_and_no_text(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        service.post(input=["secret words", "x"])
        service.post(input="secret words", policy="secret")
        service.raw(b'{"input": "secret words", "kind": "secret"}')
        service.http.get("/v1/models/secret")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("guard."))
    assert "policy=moderation-13 texts=2 characters=13" in ours and "POST /v1/moderations 200" in ours
    assert "GET /v1/models/{name} 404" in ours
    assert "secret" not in ours


def test_the_openapi_document_tells_the_truth(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/moderations", "/v1/chat/moderations", "/v1/models", "/v1/models/{name}", "/healthz", "/readyz",
        "/openai/v1/moderations", "/openai/v1/models", "/openai/v1/models/{name}", "/mistral/v1/moderations",
        "/mistral/v1/chat/moderations", "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore",
        "/beta/litellm_basic_guardrail_api", "/v1/score", "/v1/chat/completions", "/openai/v1/chat/completions",
        "/v1/guard", "/v1/guard/policies",
    }  # fmt: skip
    post = document["paths"]["/v1/moderations"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"input", "model", "policy", "categories", "kind"}
    assert schema["required"] == ["input"] and schema["properties"]["input"]["anyOf"][0] == {"type": "string"}
    told = {int(code) for path in document["paths"].values() for how in path.values() for code in how["responses"]}
    assert told == {200, *(status for status, _ in STATUS.values())}
