"""Mastodon's receiver in a process of its own, between a scripted Mastodon and a real service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.examples.support import Asked, Other, answering, deliver, receiving
from tests.service.support import Service, one_of

Start = Callable[..., Service]
FINE, HATE, SPAM = (one_of(7, label) for label in (0, 2, 6))
STATUS = {
    "id": "110", "visibility": "public", "spoiler_text": "", "account": {"id": "7", "acct": "ann"}, "poll": None,
    "content": "<p>Boats &amp; rafts</p>", "media_attachments": [],
}  # fmt: skip


@contextmanager
def mastodon(guard: str, status: int = 200) -> Iterator[tuple[Other, Callable[..., httpx.Response]]]:
    """A Mastodon whose API answers so, and how it delivers a status."""
    with answering(lambda _: (status, {"id": "1"})) as site:
        settings = {"MASTODON_URL": site.url, "MASTODON_SECRET": "s", "MASTODON_TOKEN": "t"}
        with receiving("mastodon_webhook.py", GUARD_URL=guard, **settings) as url:

            def post(event: str = "status.created", **changed: Any) -> httpx.Response:
                body = {"event": event, "created_at": "2026-11-01T00:00:00Z", "object": {**STATUS, **changed}}
                return deliver(url, "X-Hub-Signature", "s", body)

            yield site, post


def test_an_acceptable_status_is_left_alone(start: Start) -> None:
    service = start(script=[FINE])
    with mastodon(service.url) as (site, post):
        assert post().status_code == 204
    assert site.seen == [] and service.saw("Boats & rafts")


@pytest.mark.parametrize(
    ("script", "line", "category"),
    [
        (HATE, "guard: block, hate, score 0.98, policy forum-comments.", "other"),
        (SPAM, "guard: flag, spam, score 0.98, policy forum-comments.", "spam"),
    ],
)
def test_an_unacceptable_status_is_reported(start: Start, script: list[float], line: str, category: str) -> None:
    service = start(script=[script])
    with mastodon(service.url) as (site, post):
        assert post("status.updated").status_code == 204
    (report,) = site.seen
    assert isinstance(report, Asked) and (report.method, report.path) == ("POST", "/api/v1/reports")
    assert report.headers["authorization"] == "Bearer t"
    assert report.body == {"account_id": "7", "status_ids": ["110"], "comment": line, "category": category}


def test_html_is_reduced_to_what_is_read(start: Start) -> None:
    service = start(script=[FINE])
    html = (
        '<p><span class="h-card"><a href="https://x.example/@bob">@<span>bob</span></a></span> 1<br />two &lt;b&gt;</p>'
        '<p>see <a href="https://y.example/"><span class="invisible">https://</span><span>y.example</span></a></p>'
    )
    with mastodon(service.url) as (_, post):
        assert post(content=html).status_code == 204
    assert service.saw("@bob 1\ntwo <b>\n\nsee https://y.example")


def test_warning_poll_and_pictures_are_read_too(start: Start) -> None:
    service = start(script=[FINE])
    more: dict[str, Any] = {
        "spoiler_text": "Ships", "poll": {"options": [{"title": "Oak"}, {"title": "Elm"}]}, "content": "",
        "media_attachments": [{"description": "A boat"}, {"description": None}],
    }  # fmt: skip
    with mastodon(service.url) as (_, post):
        assert post(**more).status_code == 204
    assert service.saw("Ships\n\nOak\n\nElm\n\nA boat")


def test_a_report_that_was_refused_is_tried_again(start: Start) -> None:
    service = start(script=[HATE])
    with mastodon(service.url, status=422) as (site, post):
        assert post().status_code == 503
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        ("status.created", {"visibility": "private"}), ("status.created", {"visibility": "direct"}),
        ("status.created", {"content": "<p></p>"}), ("account.created", {}),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_or_says_nothing_is_not_judged(
    service: Service, event: str, changed: dict[str, Any]
) -> None:
    before = len(service.engine.seen)
    with mastodon(service.url) as (site, post):
        assert post(event, **changed).status_code == 204
    assert site.seen == [] and len(service.engine.seen) == before
