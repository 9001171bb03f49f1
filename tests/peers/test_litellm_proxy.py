"""LiteLLM's real proxy with `examples/litellm.yaml`, between a scripted model and a real service.

`GUARD_LITELLM` names the proxy's executable, of an environment of its own with `pip install 'litellm[proxy]'`.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.examples.support import Answer, Asked, Other, answering
from tests.service.support import Service, one_of, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "litellm.yaml"
FINE, BAD = one_of(14, 0), one_of(14, 3)
WORDS = ["Alder ", "birch ", "cedar ", "dogwood ", "elder ", "fir ", "gorse ", "hazel."]


@pytest.fixture
def model() -> Iterator[Other]:
    """A chat model that always says the same, streamed or not."""

    def answer(asked: Asked) -> Answer:
        if asked.method == "GET":  # the proxy asks for the list of models as it starts
            return 200, {"object": "list", "data": []}
        if not asked.body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": 1 + len(WORDS)}
            return 200, {**_envelope("chat.completion"), "choices": choices, "usage": usage}
        deltas: list[tuple[dict[str, str], str | None]] = [({"content": word}, None) for word in WORDS]
        chunks = [
            {**_envelope("chat.completion.chunk"), "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for delta, reason in [({"role": "assistant", "content": ""}, None), *deltas, ({}, "stop")]
        ]
        lines = [*map(json.dumps, chunks), "[DONE]"]
        return 200, "".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream"

    with answering(answer) as other:
        yield other


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "scripted"}


@contextmanager
def proxy(folder: Path, guard: str, model: str, key: str | None = None) -> Iterator[httpx.Client]:
    """The proxy with the example's guardrail, at other addresses; a client of it."""
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config["guardrails"][0]["litellm_params"] |= {"api_base": guard, "api_key": key}
    params = {"model": "openai/scripted", "api_base": f"{model}/v1", "api_key": "none"}
    config["model_list"] = [{"model_name": "scripted", "litellm_params": params}]
    config["litellm_settings"] = {"num_retries": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [os.environ["GUARD_LITELLM"], "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    master = f"sk-{secrets.token_hex(32)}"
    surroundings = {
        "LITELLM_MASTER_KEY": master, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False",
        "HOME": str(folder),
    }  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **surroundings}) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {master}"}, timeout=60
        ) as client,
    ):
        try:
            until(lambda: process.poll() is not None or _alive(client), seconds=180)
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            yield client
        finally:
            process.terminate()


def _alive(client: httpx.Client) -> bool:
    try:
        return client.get("/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, text: str, before: Sequence[object] = (), **more: object) -> httpx.Response:
    body = {"model": "scripted", "messages": [*before, {"role": "user", "content": text}], **more}
    return client.post("/v1/chat/completions", json=body)


def questions(model: Other) -> list[Asked]:
    return [asked for asked in model.seen if asked.method == "POST"]


def leaked(reply: httpx.Response) -> list[str]:
    """Words of the model that a client got, whatever form the reply has."""
    return [word.strip() for word in WORDS if word.strip() in reply.text]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_does_not_pass_neither_reaches_the_model_nor_leaves_it(
    keyed: Callable[..., tuple[Service, str]], model: Other, tmp_path: Path, stream: bool
) -> None:
    service, key = keyed(script=[FINE, FINE, BAD, FINE, BAD])
    with proxy(tmp_path, service.url, model.url, key) as client:
        fine = ask(client, "How are boats made?", stream=stream)
        assert fine.status_code == 200 and leaked(fine) == [word.strip() for word in WORDS], fine.text
        assert len(questions(model)) == 1 and service.saw("How are boats made?") and service.saw("".join(WORDS))

        prompt = ask(client, "A bad prompt", stream=stream)
        assert prompt.status_code == 400 and leaked(prompt) == [], prompt.text
        assert "hate (0.99) under the policy moderation-13" in prompt.text
        assert len(questions(model)) == 1, "the model was asked what had been blocked"

        answer = ask(client, "A prompt with a bad answer", stream=stream)
        assert answer.status_code == 400 and leaked(answer) == [], answer.text
        assert len(questions(model)) == 2

        service.engine.answer_by_hash()
        turns = [{"role": "user", "content": "Rafts?"}, {"role": "assistant", "content": "Logs."}]
        ask(client, "And barges?", before=turns, stream=stream)
        assert all(service.saw(text) for text in ("Rafts?", "Logs.", "And barges?"))

        before = len(questions(model))
        service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
        unjudged = ask(client, "poison", stream=stream)
        assert unjudged.status_code == 500 and leaked(unjudged) == [], unjudged.text
        assert len(questions(model)) == before, "the model was asked what nobody judged"


def test_nothing_passes_where_nobody_judges(model: Other, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with proxy(tmp_path, nobody, model.url) as client:
        for stream in (False, True):
            reply = ask(client, "How are boats made?", stream=stream)
            assert reply.status_code == 500 and leaked(reply) == [], reply.text
    assert questions(model) == []
