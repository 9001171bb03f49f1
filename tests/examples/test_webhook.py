"""What both receivers of webhooks do alike, tried on Discourse's: signatures, limits, and no guard."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from guard.keys import Fail, Mode
from tests.examples.support import EXAMPLES, Other, answering, deliver, receiving
from tests.service.support import Service, one_of

HEADER, SECRET = "X-Discourse-Event-Signature", "secret"
EVENT = {"post": {"id": 1, "post_number": 2, "raw": "Boats are made of wood.", "topic_archetype": "regular"}}
POISON = {"post": {**EVENT["post"], "raw": "poison"}}
NOBODY = "http://127.0.0.1:1"
SETTINGS = {
    "DISCOURSE_URL": NOBODY, "DISCOURSE_SECRET": SECRET, "DISCOURSE_KEY": "key", "DISCOURSE_USER": "guard",
}  # fmt: skip


@pytest.fixture
def forum() -> Iterator[Other]:
    """A Discourse that takes every flag."""
    with answering(lambda _: (200, {})) as other:
        yield other


def test_nothing_is_judged_whose_signature_is_not_right(service: Service) -> None:
    with receiving("discourse_webhook.py", GUARD_URL=service.url, **SETTINGS) as url:
        right = deliver(url, HEADER, SECRET, {"ping": "OK"})
        assert right.status_code == 204
        before = len(service.engine.seen)
        assert deliver(url, HEADER, "another secret", EVENT).status_code == 403
        assert deliver(url, "X-Other", SECRET, EVENT).status_code == 403
        for wrong in ("", "sha256=", "sha1=00", "sha256=\xe9"):
            reply = httpx.post(url, json=EVENT, headers={HEADER: wrong.encode("latin-1")})
            assert reply.status_code == 403, wrong
        replaced = httpx.post(url, json=EVENT, headers={HEADER: right.request.headers[HEADER]})
        assert replaced.status_code == 403
    assert len(service.engine.seen) == before


@pytest.mark.parametrize("down", [True, False], ids=["unreachable", "broken"])
def test_without_a_verdict_the_sender_is_to_come_again(service: Service, forum: Other, down: bool) -> None:
    service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
    given = {**SETTINGS, "DISCOURSE_URL": forum.url, "GUARD_URL": NOBODY if down else service.url}
    with receiving("discourse_webhook.py", **given) as url:
        assert deliver(url, HEADER, SECRET, POISON).status_code == 503
    assert forum.seen == []


def test_a_key_is_sent_and_what_it_lets_pass_unjudged_is_tried_again(
    keyed: Callable[..., tuple[Service, str]], forum: Other
) -> None:
    service, secret = keyed(script=[one_of(7, 1)], mode=Mode.SHADOW, fail=Fail.OPEN)
    given = {**SETTINGS, "DISCOURSE_URL": forum.url, "GUARD_URL": service.url}
    with receiving("discourse_webhook.py", GUARD_KEY="wrong", **given) as url:
        assert deliver(url, HEADER, SECRET, EVENT).status_code == 503
    with receiving("discourse_webhook.py", GUARD_KEY=secret, **given) as url:
        assert deliver(url, HEADER, SECRET, EVENT).status_code == 204, "in shadow mode nothing is flagged"
        service.engine.poison = (service.tokenizer.encode("poison"), RuntimeError("broken"))
        assert deliver(url, HEADER, SECRET, POISON).status_code == 503
    assert forum.seen == []


def test_an_unknown_policy_is_no_verdict(service: Service) -> None:
    with receiving("discourse_webhook.py", GUARD_URL=service.url, GUARD_POLICY="nope", **SETTINGS) as url:
        assert deliver(url, HEADER, SECRET, EVENT).status_code == 503


def test_bodies_have_a_length_and_a_limit() -> None:
    with receiving("discourse_webhook.py", GUARD_URL=NOBODY, **SETTINGS) as url:
        for length, status in ((None, 411), ("-1", 411), ("x", 411), ("9" * 5000, 413), (str((1 << 20) + 1), 413)):
            connection = http.client.HTTPConnection(urlsplit(url).netloc)
            connection.putrequest("POST", "/")
            if length is not None:
                connection.putheader("Content-Length", length)
            connection.endheaders()
            assert connection.getresponse().status == status, length
            connection.close()


@pytest.mark.parametrize("name", ["discourse_webhook.py", "mastodon_webhook.py"])
def test_a_receiver_without_its_secret_does_not_start(name: str) -> None:
    given = {**SETTINGS, "GUARD_URL": NOBODY, "DISCOURSE_SECRET": "", "MASTODON_URL": NOBODY, "MASTODON_TOKEN": "t"}
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.strip().endswith("_SECRET is not set.")
