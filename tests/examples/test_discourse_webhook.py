"""Discourse's receiver in a process of its own, between a scripted Discourse and a real service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.examples.support import Answer, Asked, Other, answering, deliver, receiving
from tests.service.support import Service, one_of

Start = Callable[..., Service]
FINE, INSULT = one_of(7, 0), one_of(7, 1)
POST = {
    "id": 42, "post_number": 1, "raw": "Boats are made of wood.", "cooked": "<p>Boats are made of wood.</p>",
    "topic_title": "About boats", "topic_archetype": "regular", "username": "ann", "deleted_at": None,
}  # fmt: skip


@contextmanager
def discourse(guard: str, answer: Callable[[Asked], Answer]) -> Iterator[tuple[Other, Callable[..., httpx.Response]]]:
    """A Discourse that answers so, and how it delivers a post."""
    with answering(answer) as forum:
        settings = {
            "DISCOURSE_URL": forum.url,
            "DISCOURSE_SECRET": "s",
            "DISCOURSE_KEY": "k",
            "DISCOURSE_USER": "guard",
        }
        with receiving("discourse_webhook.py", GUARD_URL=guard, **settings) as url:

            def post(**changed: Any) -> httpx.Response:
                headers = {"X-Discourse-Event-Type": "post", "X-Discourse-Event": "post_created"}
                return deliver(url, "X-Discourse-Event-Signature", "s", {"post": {**POST, **changed}}, **headers)

            yield forum, post


def test_an_acceptable_post_is_left_alone(start: Start) -> None:
    service = start(script=[FINE])
    with discourse(service.url, lambda _: (200, {})) as (forum, post):
        assert post().status_code == 204
    assert forum.seen == [] and service.saw("About boats\n\nBoats are made of wood.")


def test_a_title_is_judged_with_the_first_post_alone(start: Start) -> None:
    service = start(script=[FINE])
    with discourse(service.url, lambda _: (200, {})) as (_, post):
        assert post(post_number=2).status_code == 204
    assert service.saw("Boats are made of wood.") and not service.saw("About boats")


def test_an_unacceptable_post_is_flagged_for_the_moderators(start: Start) -> None:
    service = start(script=[INSULT])
    with discourse(service.url, lambda _: (200, {"id": 42})) as (forum, post):
        assert post().status_code == 204
    (flag,) = forum.seen
    assert (flag.method, flag.path) == ("POST", "/post_actions.json")
    assert (flag.headers["api-key"], flag.headers["api-username"]) == ("k", "guard")
    line = "guard: flag, insult, score 0.98, policy forum-comments."
    assert flag.body == {"id": 42, "post_action_type_id": 7, "message": line}


def test_a_flag_that_is_there_already_is_done(start: Start) -> None:
    def again(asked: Asked) -> Answer:
        if asked.method == "POST":
            return 403, {"errors": ["You have already performed this action."]}
        return 200, {"id": 42, "actions_summary": [{"id": 2, "can_act": True}, {"id": 7, "acted": True}]}

    service = start(script=[INSULT])
    with discourse(service.url, again) as (forum, post):
        assert post().status_code == 204
    assert [asked.path for asked in forum.seen] == ["/post_actions.json", "/posts/42.json"]
    assert forum.seen[1].headers["api-key"] == "k"


def test_a_flag_that_was_refused_is_tried_again(start: Start) -> None:
    service = start(script=[INSULT, INSULT])
    for answer in ((403, {"errors": ["invalid_access"]}), (200, b"no JSON", "text/html")):
        with discourse(service.url, lambda asked, answer=answer: answer) as (_, post):
            assert post().status_code == 503


def test_what_is_not_a_public_post_is_not_judged(service: Service) -> None:
    before = len(service.engine.seen)
    with discourse(service.url, lambda _: (200, {})) as (forum, post):
        assert post(topic_archetype="private_message").status_code == 204
        assert post(deleted_at="2026-11-01T00:00:00Z").status_code == 204
    assert forum.seen == [] and len(service.engine.seen) == before


def test_a_ping_is_answered(service: Service) -> None:
    settings = {"DISCOURSE_URL": service.url, "DISCOURSE_SECRET": "s", "DISCOURSE_KEY": "k", "DISCOURSE_USER": "guard"}
    with receiving("discourse_webhook.py", GUARD_URL=service.url, **settings) as url:
        assert deliver(url, "X-Discourse-Event-Signature", "s", {"ping": "OK"}).status_code == 204
