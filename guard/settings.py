"""One frozen settings object: flags, then GUARD_* variables, then guard.yaml in the current folder, then defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from guard.errors import InvalidSettings


class Settings(BaseSettings):
    """Every setting, with how to choose it. Build it with `load_settings`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix="GUARD_", yaml_file="guard.yaml", yaml_file_encoding="utf-8", frozen=True, extra="forbid"
    )

    model: str = "embedded"
    """`embedded`, a folder with a Hugging Face checkpoint, or a Hugging Face model id."""
    policy: str = "self-reflection"
    """The policy of a call that names none."""
    service_policy: str = "moderation-13"
    """The policy of an HTTP request that names none."""
    policies: tuple[Path, ...] = ()
    """Folders of further policy files."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 where the processor multiplies it natively, else float32."""
    weights: Literal["full", "int8", "int4", "nf4"] = "full"
    """How a model's matrices are held: `int8` and `int4` save memory on the CPU, `nf4` on a GPU; see docs/models.md."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the engine; 0 takes one per core."""
    kernels: Literal["auto", "native", "flex", "torch"] = "auto"
    """`native` are compiled at first use, for CPUs; `flex` are for GPUs; `torch` run anywhere; `auto` chooses."""
    batch_tokens: Annotated[int, Field(ge=256)] = 2048
    """Tokens per forward pass; a larger batch helps on a GPU, a smaller one answers the first request sooner."""
    memory_mb: Annotated[int, Field(ge=1)] = 1024
    """Memory for keys and values: those of the policies that are kept, and the most that one request may need."""
    passage_tokens: Annotated[int, Field(ge=32)] = 256
    """A longer text is cut into passages of this many tokens."""
    passage_overlap: Annotated[int, Field(ge=0)] = 32
    """Tokens that neighbouring passages share."""
    defences: tuple[Literal["fold", "decode", "parts", "wording"], ...] = ("fold", "decode")
    """Against texts that hide what they say: `fold` reads look-alike, invisible and spelled-out characters, `decode`
    reads codes, `parts` judges each sentence by itself, too, `wording` asks in two wordings; see docs/evaluation.md."""
    max_passages: Annotated[int, Field(ge=1)] = 64
    """Passages judged of one text; a longer one is marked `truncated` and never simply accepted."""
    assistant: str | None = None
    """The assistant behind the chat: the URL of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1, or a model,
    named as in `model` (the same one is loaded once); none: the chat is not offered."""
    assistant_key: SecretStr | None = None
    """Bearer key for that URL."""
    assistant_seconds: Annotated[float, Field(gt=0)] = 60.0
    """An assistant that says nothing for so long has failed."""
    safe_prompt: bool = False
    """Begin every chat with the guardrail system prompt; a request's own `safe_prompt` goes before."""
    document_policy: str = "injection"
    """The policy of tool results and documents in a chat."""
    release: Literal["hold", "block", "score"] = "hold"
    """How an answer is released: `hold` once it is judged, `block` at once, but no further than `release_tokens` ahead
    of the judge, `score` unhindered, judged at its end."""
    release_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens that may have left beyond the first prefix of an answer that is not acceptable."""
    max_chats: Annotated[int, Field(ge=1)] = 64
    """Chats at once; beyond that a request gets 429 with Retry-After."""
    host: str = "127.0.0.1"
    """Address that `guard serve` listens on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port that `guard serve` listens on; 0 takes a free one."""
    suggestions: Path | None = None
    """File to which corrections of scores are added (Perspective's `comments:suggestscore`); none: they are refused."""
    keys: Path | None = None
    """File of keys (`guard keys`); none: no key is asked for."""
    open_access: bool = False
    """Listen beyond this machine without keys."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """For requests without a key: `shadow` judges them and answers as if nothing was found."""
    fail: Literal["closed", "open"] = "closed"
    """For requests without a key: `open` lets a text that could not be judged pass."""
    max_body_mb: Annotated[float, Field(gt=0)] = 8.0
    """Larger request bodies are refused with 413."""
    max_inputs: Annotated[int, Field(ge=1)] = 1024
    """Texts in one request."""
    queue_tokens: Annotated[int, Field(ge=1)] = 262144
    """Tokens waiting at most, as many as 4096 texts of 64; beyond that a request gets 429 with Retry-After."""
    service_tokens: Annotated[int, Field(ge=1)] = 2304
    """Tokens handed to the engine together by the service; fewer let the next request begin sooner."""
    queue_batches: Annotated[int, Field(ge=1)] = 2
    """Batches of so many tokens until a request is judged, at most; beyond that it gets 429 with Retry-After."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 30.0
    """A request that would wait longer than this gets 429, one that did and is not begun 503."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


def load_settings(**flags: Any) -> Settings:
    """Settings with the flags that were given (None: not given). Raises `InvalidSettings`."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as cause:
        first = cause.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise InvalidSettings(
            f"Setting {name!r}: {first['msg']}.", hint=f"Check the flag, GUARD_{name.upper()} and guard.yaml."
        ) from cause
    except SettingsError as cause:  # a variable that holds a list and is not JSON; the message names the field
        raise InvalidSettings(
            f"A GUARD_* variable does not hold: {cause}.", hint='Write a list as JSON, such as ["/etc/guard/policies"].'
        ) from cause
    except Exception as cause:  # pydantic-settings lets the YAML parser's errors through
        raise InvalidSettings(f"guard.yaml cannot be read: {cause}", hint="Mend or remove it.") from cause
