"""YAML files that are checked against a pydantic model, with the file and the line of whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from guard.errors import GuardError, InvalidPolicy

Model = TypeVar("Model", bound=BaseModel)


_HINT = "See docs/policies.md for the keys."


def load_yaml(path: Path, model: type[Model], error: type[GuardError] = InvalidPolicy, *, hint: str = _HINT) -> Model:
    """Read `path` into `model`. Raises `error`, naming file, line and key, for anything that does not hold."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path}: cannot be read: {cause}", hint="Name a readable UTF-8 file.") from cause
    return read_yaml(text, path, model, error, hint=hint)


def read_yaml(
    text: str, path: Path, model: type[Model], error: type[GuardError] = InvalidPolicy, *, hint: str = _HINT
) -> Model:
    """Read a file's text into `model`, as `load_yaml` does."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_repeated_keys(path, tree, error)
        data = yaml.safe_load(text)
    except GuardError:
        raise
    except Exception as cause:  # PyYAML lets through what its constructors raise: ValueError for the date 2024-13-45
        mark = getattr(cause, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(cause, "problem", None) or str(cause)
        raise error(f"{where}: not valid YAML: {problem}.", hint="Mend the line.") from cause
    if not isinstance(data, dict):
        raise error(f"{path}:1: a mapping of keys is expected, not {type(data).__name__}.", hint=hint)
    try:
        return model.model_validate(data)
    except ValidationError as cause:
        first = cause.errors()[0]
        keys = ".".join(str(key) for key in first["loc"]) or "file"
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise error(f"{path}:{_line_of(tree, first['loc'])}: {keys}: {what}.", hint=hint) from cause


def _line_of(node: yaml.Node | None, keys: tuple[int | str, ...]) -> int:
    """The line (from 1) of the value at `keys`, or of its nearest ancestor that is in the file."""
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_repeated_keys(path: Path, node: yaml.Node | None, error: type[GuardError]) -> None:
    """PyYAML lets the last of two equal keys win in silence; a policy must not lose a category that way."""
    done: set[int] = set()  # an alias may name a node many times, or one that holds it
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise error(f"{path}:{key.start_mark.line + 1}: a key must be a word.", hint="Mend the line.")
                if key.value in seen:
                    raise error(
                        f"{path}:{key.start_mark.line + 1}: {key.value}: the key stands twice.", hint="Keep one."
                    )
                seen.add(key.value)
                waiting.append(value)
