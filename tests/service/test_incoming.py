"""Reading bodies: whatever comes, a value or an error that says where."""

from __future__ import annotations

import pytest

from guard.errors import InvalidRequest
from guard.service.incoming import read_object


@pytest.mark.parametrize(
    "body, said",
    [
        (b"", "not JSON. See line 1, column 1"),
        (b'{"input":\n "a",}', "line 2"),
        (b'{"input": "a"} {}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"input": "\xff"}', "not UTF-8. See byte 11"),
        (b'{"input": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"input": "\n"}', "not JSON"),
        (b'{"input": NaN}', "NaN"),
        (b'{"other": [-Infinity]}', "NaN"),
        (b'{"input": "a", "input": "b"}', "same key twice"),
        (b'{"other": {"a": 1, "a": 1}}', "same key twice"),
        (b"[" * 200_000, "too deep"),
        (b'{"a":' * 200_000, "too deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too long"),
        (b'["a"]', "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_not_a_json_object_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_object(body)


def test_strings_come_as_they_are() -> None:
    assert read_object(b'{"input": "\\ud800 \\u0000 \xc3\xa9"}') == {"input": "\ud800 \x00 é"}
