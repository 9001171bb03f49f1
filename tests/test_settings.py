"""Settings: flag, then variable, then file, then default; whatever is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from guard.errors import InvalidSettings
from guard.moderator import Moderator
from guard.settings import Settings, load_settings

DEFAULTS = {
    "model": "embedded", "policy": "self-reflection", "service_policy": "moderation-13", "policies": (),
    "dtype": "auto", "threads": 0, "kernels": "auto", "batch_tokens": 2048, "memory_mb": 1024, "passage_tokens": 256,
    "passage_overlap": 32, "max_passages": 64,
    "defences": ("fold", "decode"), "host": "127.0.0.1", "port": 8080, "max_body_mb": 8.0,
    "max_inputs": 1024, "queue_tokens": 262144, "service_tokens": 2304, "queue_batches": 2, "deadline_seconds": 30.0,
    "weights": "full", "suggestions": None,
    "assistant": None, "assistant_key": None, "assistant_seconds": 60.0, "safe_prompt": False,
    "document_policy": "injection", "release": "hold", "release_tokens": 32, "max_chats": 64,
    "keys": None, "open_access": False, "mode": "enforce", "fail": "closed",
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and none of our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("GUARD_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_the_defaults():
    assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "file", "variable", "flag", "values"),
    [
        ("port", "port: 1", "2", 3, (1, 2, 3)),
        ("policy", "policy: a", "b", "c", ("a", "b", "c")),
        ("max_body_mb", "max_body_mb: 1.5", "2.5", 3.5, (1.5, 2.5, 3.5)),
        ("dtype", "dtype: float32", "bfloat16", "auto", ("float32", "bfloat16", "auto")),
        ("policies", "policies: [a]", '["b"]', [Path("c")], ((Path("a"),), (Path("b"),), (Path("c"),))),
    ],
)
def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: str,
    variable: str,
    flag: Any,
    values: tuple[Any, ...],
):
    def found(**flags: Any) -> Any:
        return getattr(load_settings(**flags), name)

    assert found() == DEFAULTS[name]
    (alone / "guard.yaml").write_text(file)
    assert found() == values[0]
    monkeypatch.setenv(f"GUARD_{name.upper()}", variable)
    assert found() == values[1]
    assert found(**{name: flag}) == values[2]
    assert found(**{name: None}) == values[1], "a flag that was not given is no flag"


def test_each_setting_comes_from_its_own_source(alone: Path, monkeypatch: pytest.MonkeyPatch):
    (alone / "guard.yaml").write_text("port: 1\nhost: 0.0.0.0\n")
    monkeypatch.setenv("GUARD_PORT", "2")
    made = load_settings(policy="mistral-9")
    assert (made.host, made.port, made.policy, made.model) == ("0.0.0.0", 2, "mistral-9", "embedded")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1), ("port", 65536), ("port", "http"), ("threads", -1), ("batch_tokens", 255), ("memory_mb", 0),
        ("passage_tokens", 31), ("passage_overlap", -1), ("max_passages", 0), ("max_body_mb", 0),
        ("max_body_mb", float("nan")), ("max_inputs", 0), ("queue_tokens", 0), ("service_tokens", 0),
        ("deadline_seconds", 0), ("dtype", "int8"),
        ("open_access", "perhaps"), ("mode", "off"), ("fail", "shut"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_hold_is_refused_by_name(
    alone: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
):
    refused = pytest.raises(InvalidSettings, match=f"'{name}'")
    with refused as error:
        load_settings(**{name: value})
    assert f"GUARD_{name.upper()}" in error.value.hint
    with pytest.raises(InvalidSettings, match=f"'{name}'"):
        (alone / "guard.yaml").write_text(f"{name}: {'.nan' if value != value else value}")
        load_settings()
    (alone / "guard.yaml").unlink()
    with pytest.raises(InvalidSettings, match=f"'{name}'"):
        monkeypatch.setenv(f"GUARD_{name.upper()}", str(value))
        load_settings()


def test_an_unknown_key_is_refused_in_the_file_and_as_a_flag(alone: Path):
    with pytest.raises(InvalidSettings, match="'colour'"):
        load_settings(colour="red")
    (alone / "guard.yaml").write_text("port: 1\nmax_passage: 3\n")
    with pytest.raises(InvalidSettings, match="'max_passage'"):
        load_settings()


def test_an_unknown_variable_is_somebody_elses(monkeypatch: pytest.MonkeyPatch):
    for name in ("GUARD_DEBUG", "GUARD_COLOUR", "GUARD_", "GUARD_PORT_HTTP", "PORT", "MODEL"):
        monkeypatch.setenv(name, "x")
    assert load_settings().model_dump() == DEFAULTS


def test_variables_in_small_letters_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("guard_port", "5")
    assert load_settings().port == 5


@pytest.mark.parametrize("value", ["/etc/guard/policies", "[", "a,b"])
def test_a_list_that_is_no_json_is_explained(monkeypatch: pytest.MonkeyPatch, value: str):
    """The error said that guard.yaml could not be read."""
    monkeypatch.setenv("GUARD_POLICIES", value)
    with pytest.raises(InvalidSettings, match="policies") as error:
        load_settings()
    assert "guard.yaml" not in str(error.value) and "JSON" in error.value.hint


@pytest.mark.parametrize("text", ["port: [", "- a", "word", "port: 2024-13-45", "port: !!python/name:os.sep", "\0"])
def test_a_broken_file_is_explained(alone: Path, text: str):
    (alone / "guard.yaml").write_text(text)
    with pytest.raises(InvalidSettings, match="guard.yaml cannot be read|'port'") as error:
        load_settings()
    assert error.value.hint


def test_an_empty_file_changes_nothing(alone: Path):
    for text in ("", "# nothing\n", "{}"):
        (alone / "guard.yaml").write_text(text)
        assert load_settings().model_dump() == DEFAULTS


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


def test_a_moderator_without_settings_explains_what_is_wrong_too(monkeypatch: pytest.MonkeyPatch):
    """It raised pydantic's error."""
    monkeypatch.setenv("GUARD_PORT", "x")
    with pytest.raises(InvalidSettings, match="'port'"):
        Moderator.load()
    with pytest.raises(InvalidSettings, match="'port'"):
        Moderator(None, None)  # type: ignore[arg-type]


def test_every_setting_says_how_to_choose_it():
    source = Path(__import__(Settings.__module__, fromlist=["x"]).__file__).read_text().splitlines()
    for name in DEFAULTS:
        line = next(i for i, text in enumerate(source) if text.startswith(f"    {name}:"))
        assert source[line + 1].strip().startswith('"""'), name
