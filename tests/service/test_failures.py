"""Errors on the wire: every leaf of the tree has its status, and nothing leaks."""

from __future__ import annotations

import json
import logging

import pytest

from guard.errors import STATUS, GuardError, Overloaded, RateLimited, Unauthorized
from guard.service.failures import failed


def leaves(kind: type[GuardError]) -> list[type[GuardError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return below or [kind]


@pytest.mark.parametrize("leaf", leaves(GuardError), ids=lambda leaf: leaf.__name__)
def test_each_leaf_has_its_status_and_all_four_keys(leaf: type[GuardError]) -> None:
    response = failed(leaf("It is wrong.", hint="Mend it.", param="input.3"), retry_after=7)
    assert response.status_code == STATUS[leaf][0]
    sort = {4: "invalid_request_error", 5: "server_error"}[response.status_code // 100]
    assert json.loads(bytes(response.body))["error"] == {
        "message": "It is wrong. Mend it.",
        "type": "rate_limit_error" if leaf in (Overloaded, RateLimited) else sort,
        "param": "input.3",
        "code": "rate_limit_exceeded" if leaf is Overloaded else leaf.code,
    }
    assert response.headers.get("retry-after") == ({Overloaded: "7", RateLimited: "1"}.get(leaf))
    assert response.headers.get("www-authenticate") == ('Bearer realm="guard"' if leaf is Unauthorized else None)


def test_a_key_over_its_limit_is_told_when_to_come_again() -> None:
    assert failed(RateLimited("Enough.", retry_after=12), retry_after=7).headers["retry-after"] == "12"


def test_an_unexpected_error_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("the secret text")

    with caplog.at_level(logging.INFO), pytest.raises(ValueError) as caught:
        broken()
    response = failed(caught.value)
    error = json.loads(bytes(response.body))["error"]
    assert response.status_code == 500
    assert error == {"message": "The service failed.", "type": "server_error", "param": None, "code": "internal_error"}
    assert "ValueError" in caplog.text and "broken" in caplog.text and "secret" not in caplog.text
