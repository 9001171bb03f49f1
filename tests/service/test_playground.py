"""The playground's headers, and what its page refers to. `tests/browser` uses it."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from tests.service.support import Service, error_of


@pytest.fixture
def page(service: Service) -> str:
    return service.http.get("/").text


def test_it_is_a_page_that_nobody_keeps_or_frames(service: Service) -> None:
    response = service.http.get("/")
    assert response.status_code == 200 and response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<!doctype html>") and '<html lang="en">' in response.text
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert error_of(service.http.post("/"), 405)["code"] == "method_not_allowed"


def test_the_security_policy_allows_its_own_script_and_style_and_nothing_else(service: Service, page: str) -> None:
    (told,) = service.http.get("/").headers.get_list("content-security-policy")
    rules = dict(rule.split(" ", 1) for rule in told.split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'" and rules["img-src"] == "data:"
    assert all(rules[name] == "'none'" for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"))
    assert rules["require-trusted-types-for"] == "'script'"
    for name in ("script", "style"):
        (code,) = re.findall(rf"<{name}\b[^>]*>(.*?)</{name}>", page, re.DOTALL)
        assert rules[f"{name}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def test_it_names_no_outside_resource(page: str) -> None:
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^'\"\s]*", page)
    assert addresses == ["http://www.w3.org/2000/svg"], "the name of a language, which nobody fetches"
    assert not re.search(r"@import|url\(|\bsrc=|\bimport\b", page)
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'href="([^"]*)"', page))


def test_it_parses_no_text_as_markup(page: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page)
    assert not re.search(r"<[^>]+\s(?:on\w+|style)=", page)


def test_it_is_for_people(service: Service) -> None:
    assert "/" not in service.http.get("/openapi.json").json()["paths"]
