"""`examples/librechat.env`: what LibreChat posts, to the very address in that file."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from tests.examples.support import EXAMPLES
from tests.service.support import Service, one_of

Start = Callable[..., Service]


def settings() -> dict[str, str]:
    lines = (EXAMPLES / "librechat.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_librechats_question_is_answered(start: Start) -> None:
    service = start(script=[one_of(14, 0), one_of(14, 3)])
    assert set(settings()) == {
        "OPENAI_MODERATION", "OPENAI_MODERATION_REVERSE_PROXY", "OPENAI_MODERATION_API_KEY"
    } and settings()["OPENAI_MODERATION"] == "true"  # fmt: skip
    url = settings()["OPENAI_MODERATION_REVERSE_PROXY"]
    assert url.startswith("http://127.0.0.1:8080/")
    headers = {"Authorization": f"Bearer {settings()['OPENAI_MODERATION_API_KEY']}"}
    flagged = []
    for text in ("How are boats made?", "something bad"):
        reply = httpx.post(url.replace("http://127.0.0.1:8080", service.url), json={"input": text}, headers=headers)
        assert reply.status_code == 200
        flagged.append(any(result["flagged"] for result in reply.json()["results"]))
    assert flagged == [False, True]
