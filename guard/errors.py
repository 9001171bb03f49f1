"""Every error that `guard` raises on purpose, and the one table from error to HTTP status and exit status.

    GuardError
    ├── InputError            what was asked cannot be asked so
    │   ├── InvalidItem         the text or its context is unusable (empty, wrong type)
    │   ├── InvalidRequest      an HTTP body or an argument is malformed
    │   ├── PayloadTooLarge     a body is larger than the limit
    │   ├── UnknownPolicy       no policy, or no category of it, has that id
    │   ├── UnknownModel        no model has that name
    │   ├── UnknownPath         no such path
    │   ├── MethodNotAllowed    the path exists, the method does not
    │   ├── Unauthorized        no key was sent, or none that is known
    │   ├── NotPermitted        the key does not allow it
    │   ├── RateLimited         the key has used up what it may ask in a minute
    │   ├── InvalidFile         a file to scan is missing, unreadable, or lacks a column
    │   ├── AssistantRefused    the assistant behind the chat does not take the request
    │   └── PromiseRefused      the labels do not carry what `guard calibrate` is to promise
    ├── SetupError            the operator's files are wrong
    │   ├── InvalidPolicy       a policy or a template does not hold
    │   ├── InvalidSettings     a setting does not hold
    │   ├── ModelUnavailable    a model folder is missing, unreadable or not supported
    │   └── NotOffered          what was asked for was not set up
    └── RunError              the work itself failed
        ├── EngineError         scoring failed; the item got no verdict
        ├── Overloaded          the queue is full: come again
        ├── DeadlineExceeded    the request waited too long and was not begun
        ├── NotReady            the engine does not answer
        └── AssistantFailed     the assistant behind the chat does not answer, or not as it should

Each carries `message` (what was wrong and where), `hint` (what to do) and a stable `code`.
"""

from __future__ import annotations

import traceback
from typing import ClassVar


class GuardError(Exception):
    """Base of the tree. `str(error)` is the message followed by the hint."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param  # the field of a request that was wrong, such as "input.3"

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InputError(GuardError):
    code = "invalid_input"


class InvalidItem(InputError):
    code = "invalid_item"


class InvalidRequest(InputError):
    code = "invalid_request"


class PayloadTooLarge(InputError):
    code = "payload_too_large"


class UnknownPolicy(InputError):
    code = "unknown_policy"


class UnknownModel(InputError):
    code = "model_not_found"


class UnknownPath(InputError):
    code = "unknown_path"


class MethodNotAllowed(InputError):
    code = "method_not_allowed"


class Unauthorized(InputError):
    code = "invalid_api_key"


class NotPermitted(InputError):
    code = "not_permitted"


class RateLimited(InputError):
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, hint=hint, param=param)
        self.retry_after = retry_after  # whole seconds


class InvalidFile(InputError):
    code = "invalid_file"


class AssistantRefused(InputError):
    code = "assistant_refused"


class PromiseRefused(InputError):
    code = "promise_refused"


class SetupError(GuardError):
    code = "setup_error"


class InvalidPolicy(SetupError):
    code = "invalid_policy"


class InvalidSettings(SetupError):
    code = "invalid_settings"


class ModelUnavailable(SetupError):
    code = "model_unavailable"


class NotOffered(SetupError):
    code = "not_offered"


class RunError(GuardError):
    code = "run_error"


class EngineError(RunError):
    code = "engine_error"


class Overloaded(RunError):
    code = "overloaded"


class DeadlineExceeded(RunError):
    code = "deadline_exceeded"


class NotReady(RunError):
    code = "not_ready"


class AssistantFailed(RunError):
    code = "assistant_failed"


EXIT_ACCEPTED, EXIT_FLAGGED, EXIT_ERROR, EXIT_ROW_ERRORS = 0, 1, 2, 3

# One row per leaf: HTTP status, exit status. A test fails when a leaf has no row.
STATUS: dict[type[GuardError], tuple[int, int]] = {
    InvalidItem: (400, EXIT_ERROR),
    InvalidRequest: (400, EXIT_ERROR),
    PayloadTooLarge: (413, EXIT_ERROR),
    UnknownPolicy: (400, EXIT_ERROR),
    UnknownModel: (404, EXIT_ERROR),
    UnknownPath: (404, EXIT_ERROR),
    MethodNotAllowed: (405, EXIT_ERROR),
    Unauthorized: (401, EXIT_ERROR),
    NotPermitted: (403, EXIT_ERROR),
    RateLimited: (429, EXIT_ERROR),
    InvalidFile: (400, EXIT_ERROR),
    PromiseRefused: (400, EXIT_ERROR),
    InvalidPolicy: (500, EXIT_ERROR),
    InvalidSettings: (500, EXIT_ERROR),
    ModelUnavailable: (503, EXIT_ERROR),
    NotOffered: (501, EXIT_ERROR),
    EngineError: (500, EXIT_ERROR),
    Overloaded: (429, EXIT_ERROR),
    DeadlineExceeded: (503, EXIT_ERROR),
    NotReady: (503, EXIT_ERROR),
    AssistantRefused: (400, EXIT_ERROR),
    AssistantFailed: (502, EXIT_ERROR),
}


def described(error: BaseException) -> str:
    """An error for the log: its type and where it arose. Its message is left out, because it may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{type(error).__name__} at {' > '.join(f'{frame.name}:{frame.lineno}' for frame in frames)}"
