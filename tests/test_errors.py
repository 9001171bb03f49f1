"""The error tree, its drawing and its table agree, and its codes stay as they are."""

from __future__ import annotations

import pickle
import re
from http import HTTPStatus

import pytest

from guard import errors
from guard.errors import STATUS, EngineError, GuardError, InvalidItem
from guard.verdict import failure

CODES = {
    "DeadlineExceeded": "deadline_exceeded",
    "EngineError": "engine_error",
    "GuardError": "error",
    "InputError": "invalid_input",
    "InvalidFile": "invalid_file",
    "PromiseRefused": "promise_refused",
    "InvalidItem": "invalid_item",
    "InvalidPolicy": "invalid_policy",
    "InvalidRequest": "invalid_request",
    "InvalidSettings": "invalid_settings",
    "MethodNotAllowed": "method_not_allowed",
    "ModelUnavailable": "model_unavailable",
    "NotOffered": "not_offered",
    "AssistantRefused": "assistant_refused",
    "AssistantFailed": "assistant_failed",
    "NotPermitted": "not_permitted",
    "NotReady": "not_ready",
    "Overloaded": "overloaded",
    "PayloadTooLarge": "payload_too_large",
    "RateLimited": "rate_limit_exceeded",
    "RunError": "run_error",
    "SetupError": "setup_error",
    "Unauthorized": "invalid_api_key",
    "UnknownModel": "model_not_found",
    "UnknownPath": "unknown_path",
    "UnknownPolicy": "unknown_policy",
}  # callers compare with them: never change one


def tree(root: type[GuardError] = GuardError) -> list[type[GuardError]]:
    return [root, *(below for child in root.__subclasses__() for below in tree(child))]


def leaves() -> set[type[GuardError]]:
    return {error for error in tree() if not error.__subclasses__()}


def test_the_codes_are_pinned_and_unique():
    assert {error.__name__: error.code for error in tree()} == CODES
    assert len(set(CODES.values())) == len(CODES)


def test_every_leaf_has_a_row_in_the_table_and_nothing_else_has():
    assert set(STATUS) == leaves()


def test_the_statuses_are_those_of_errors():
    for error, (http, exit_status) in STATUS.items():
        assert HTTPStatus(http) >= 400, error
        assert exit_status == errors.EXIT_ERROR, error
    assert (errors.EXIT_ACCEPTED, errors.EXIT_FLAGGED, errors.EXIT_ERROR, errors.EXIT_ROW_ERRORS) == (0, 1, 2, 3)


def test_what_the_caller_did_wrong_is_4xx_and_what_we_did_5xx():
    for error, (http, _) in STATUS.items():
        if issubclass(error, errors.InputError) or error is errors.Overloaded:
            assert 400 <= http < 500, error
        else:
            assert http >= 500, error


def test_the_drawing_names_every_class_under_its_parent():
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"[ │├└─]*?([A-Z]\w+)", line)
        if found and found[1] in CODES:
            drawn.append((found.start(1), found[1]))
    assert [name for _, name in drawn] == [error.__name__ for error in tree()]
    for i, (depth, name) in enumerate(drawn[1:], start=1):
        parent = next(above for d, above in reversed(drawn[:i]) if d < depth)
        assert getattr(errors, name).__bases__ == (getattr(errors, parent),), name


def test_an_error_speaks_with_its_message_and_hint():
    error = InvalidItem("The text is empty.", hint="Send one.", param="input.3")
    assert str(error) == "The text is empty. Send one."
    assert (error.message, error.hint, error.param) == ("The text is empty.", "Send one.", "input.3")
    assert str(EngineError("Broken.")) == "Broken."
    assert failure(error).model_dump() == {
        "code": "invalid_item",
        "message": "The text is empty.",
        "hint": "Send one.",
    }


@pytest.mark.parametrize("kind", sorted(leaves(), key=lambda error: error.__name__))
def test_an_error_survives_another_process(kind: type[GuardError]):
    error = pickle.loads(pickle.dumps(kind("a", hint="b", param="c")))
    assert (type(error), error.message, error.hint, error.param) == (kind, "a", "b", "c")
