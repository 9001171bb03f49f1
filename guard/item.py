"""What is judged: a user's prompt, an assistant's answer with its prompt, a comment with its thread, or a document that
an assistant is given to read (a tool's result, a page that was found)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from guard.errors import InvalidItem


class Kind(StrEnum):
    """The kinds of item; each has a template in `prompts/templates/`."""

    PROMPT = "prompt"
    ANSWER = "answer"
    COMMENT = "comment"
    DOCUMENT = "document"


class Item(BaseModel):
    """One text and the context that its kind knows.

    `prompt` belongs to an answer; `parent` (the comment replied to) and `title` (of the thread) to a comment.
    Lone surrogates, which no tokenizer can encode, are replaced by U+FFFD. Raises `InvalidItem`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    kind: Kind = Kind.PROMPT
    prompt: str | None = None
    parent: str | None = None
    title: str | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(data)
        except ValidationError as cause:
            first = cause.errors(include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "item"
            message = f"{field}: {first['msg']}."
        # raised here, not in the handler: pydantic's error quotes the text, and a traceback must not
        raise InvalidItem(message, hint="See the fields of an item.", param=field)

    @field_validator("text", "prompt", "parent", "title", mode="before")
    @classmethod
    def _encodable(cls, value: Any) -> Any:
        if isinstance(value, str):
            # surrogatepass keeps a proper pair, written as two code units, together
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value

    @field_validator("text")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise InvalidItem("The text is empty.", hint="Send at least one character that is not white space.")
        return value
