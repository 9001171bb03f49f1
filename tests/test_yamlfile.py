"""A file that does not hold is refused with its name, the line and the key; nothing in it is lost in silence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from guard.errors import InvalidPolicy, InvalidSettings
from guard.yamlfile import load_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: int = 0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    inner: tuple[Inner, ...] = ()
    one: Inner | None = None
    words: tuple[str, ...] = ()


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(InvalidPolicy) as error:
        load_yaml(write(folder, text), Outer)
    assert error.value.hint
    assert str(folder) in error.value.message
    return error.value.message.replace(f"{folder}/", "")


def test_a_file_that_holds(tmp_path: Path):
    text = "# said\nid: a\ninner:\n  - name: b\n    size: 3\n  - {name: c}\none: {name: d}\nwords: [x, 'y']\n"
    made = load_yaml(write(tmp_path, text), Outer)
    assert made == Outer(
        id="a", inner=(Inner(name="b", size=3), Inner(name="c")), one=Inner(name="d"), words=("x", "y")
    )
    assert load_yaml(write(tmp_path, "\ufeffid: ä\r\n"), Outer) == Outer(id="ä")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id: a\ncolour: red\n", "file.yaml:2: colour: unknown key"),
        ("id: a\ninner:\n  - name: b\n    colour: red\n", "file.yaml:4: inner.0.colour: unknown key"),
        ("id: a\ninner:\n  - name: b\n  - name: c\n    size: big\n", "file.yaml:5: inner.1.size: "),
        ("id: a\ninner:\n\n  - size: 3\n", "file.yaml:4: inner.0.name: Field required"),
        ("id: a\none:\n  size: 3\n", "file.yaml:2: one.name: Field required"),
        ("id: a\none:\n  name: no\n", "file.yaml:3: one.name: Input should be a valid string"),
        ("words: []\n", "file.yaml:1: id: Field required"),
        ("id: a\nwords:\n  - x\n  - 5\n", "file.yaml:4: words.1: "),
        ("id: [a]\n", "file.yaml:1: id: "),
        ("id: a\nwords: x\n", "file.yaml:2: words: "),
        ("id: a\n5: 6\n", "file.yaml:2: 5: "),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(tmp_path: Path, text: str, says: str):
    assert refused(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("id: a\nid: b\n", 2, "id"),
        ("id: a\ninner:\n  - name: b\n    size: 1\n    name: c\n", 5, "name"),
        ("id: a\none: {name: b, name: c}\n", 2, "name"),
        ("id: a\nwords: [x]\n'words': [y]\n", 3, "words"),
        ("id: a\n? one\n: {name: b}\none: {name: c}\n", 4, "one"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, line: int, key: str):
    assert refused(tmp_path, text).startswith(f"file.yaml:{line}: {key}: the key stands twice")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id: [a\n", "file.yaml:2: not valid YAML"),
        ("id: a\n\tinner: b\n", "file.yaml:2: not valid YAML"),
        ("id: a: b\n", "file.yaml:1: not valid YAML"),
        ("id: *nowhere\n", "file.yaml:1: not valid YAML"),
        ("id: 'a\n", "not valid YAML"),
        ("id: a\n---\nid: b\n", "file.yaml:2: not valid YAML"),
        ("id: a\0b\n", "not valid YAML"),
        ("id: !!python/object/apply:os.getcwd []\n", "file.yaml:1: not valid YAML: could not determine a constructor"),
        ("id: !secret a\n", "file.yaml:1: not valid YAML"),
        ("id: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        ("id: !!int a\n", "not valid YAML"),
        ("id: !!bool a\n", "not valid YAML"),
        ("id: !!timestamp a\n", "not valid YAML"),
        ("id: " + "[" * 1500, "not valid YAML"),
        ("? [a, b]\n: c\n", "file.yaml:1: a key must be a word"),
        ("? {a: b}\n: c\n", "file.yaml:1: a key must be a word"),
    ],
)
def test_broken_yaml_is_explained(tmp_path: Path, text: str, says: str):
    """Some of them raised PyYAML's own errors, or Python's."""
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "word\n", "5\n", "null\n"])
def test_anything_but_a_mapping_is_refused(tmp_path: Path, text: str):
    assert refused(tmp_path, text).startswith("file.yaml:1: a mapping of keys is expected")


def test_what_cannot_be_read_is_refused(tmp_path: Path):
    assert "cannot be read" in refused(tmp_path, b"id: \xff\n")
    for path in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(InvalidPolicy, match="cannot be read"):
            load_yaml(path, Outer)


def test_a_file_that_names_itself_ends(tmp_path: Path):
    assert refused(tmp_path, "id: a\nwords: &w [x, *w]\n")
    assert refused(tmp_path, "&all\nid: *all\n")


def test_aliases_that_multiply_cost_nothing(tmp_path: Path):
    """Seven levels of nine took a second, and each further one nine times as long."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    started = time.thread_time()
    assert "unknown key" in refused(tmp_path, "id: a\n" + "\n".join(levels))
    assert time.thread_time() - started < 5


def test_an_alias_is_no_repetition(tmp_path: Path):
    text = "id: a\ninner:\n  - &b {name: b, size: 1}\n  - *b\n  - {<<: *b, name: c}\n"
    made = load_yaml(write(tmp_path, text), Outer)
    assert [(inner.name, inner.size) for inner in made.inner] == [("b", 1), ("b", 1), ("c", 1)]


def test_the_error_is_the_callers(tmp_path: Path):
    for text in ("id: [", "colour: red", "id: a\nid: b", "- a"):
        with pytest.raises(InvalidSettings):
            load_yaml(write(tmp_path, text), Outer, InvalidSettings)
