"""Which files an input names: a file, a folder, a pattern or a URL of any of them.

The one rule: nothing that might be meant is passed over in silence. In a folder only names that begin with "." or "_"
are, as those of programs that mark their work so; any other file that is not known stops the scan.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from guard.errors import InvalidFile
from guard.scan.streams import COMPRESSED, STDIN, far, filesystem, is_url, shown

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PATTERN = set("*?[")
_NAMED = 5  # unknown files that a message names


def format_of(name: str) -> str:
    """The format that a name's suffix says, behind which there may be one of a compression. Raises `InvalidFile`."""
    if name == STDIN:
        return "jsonl"
    if is_url(name):
        name = urlsplit(name).path or name
    stem = name.lower()
    for suffix in COMPRESSED:
        if stem.endswith(suffix) and _FORMATS.get(Path(stem.removesuffix(suffix)).suffix) != "parquet":
            stem = stem.removesuffix(suffix)
    found = _FORMATS.get(Path(stem).suffix)
    if found is None:
        raise InvalidFile(
            f"{shown(name)}: not a known kind of file.",
            hint=f"Known: {', '.join(_FORMATS)}; those of text also with {' or '.join(COMPRESSED)} behind.",
        )
    return found


def files(name: str, format: str | None) -> list[str]:
    """The files that `name` stands for, those of a folder or pattern sorted as text. Raises `InvalidFile`.

    With a `format` a folder's files may have any suffix.
    """
    if name == STDIN:
        return [name]
    found, folder = _far_files(name) if is_url(name) else _near_files(name)
    if not found:
        raise InvalidFile(f"{shown(name)}: no such file.", hint="Name a file, a folder or a pattern that fits some.")
    if folder and format is None:
        unknown = [shown(file) for file in found if not _is_known(file)]
        if unknown:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            raise InvalidFile(
                f"{shown(name)}: not a known kind of file: {', '.join(unknown[:_NAMED])}{more}.",
                hint=f"Name a pattern instead, such as {shown(name).rstrip('/')}/*.csv, or give the format.",
            )
    return found


def would_find(name: str, file: str) -> bool:
    """Would `name`, if it is a folder or a pattern here, also stand for this file, once it is there?"""
    wanted, parts = os.path.abspath(name), Path(os.path.abspath(file)).parts
    if os.path.isdir(name):
        return Path(os.path.realpath(name)) in Path(os.path.realpath(file)).parents
    if os.path.lexists(name) or "**" in name:
        return "**" in name and fnmatch(os.path.abspath(file), wanted.replace("**/", "*"))
    pattern = Path(wanted).parts
    return len(pattern) == len(parts) and all(map(fnmatch, parts, pattern))


def _near_files(name: str) -> tuple[list[str], bool]:
    if os.path.isdir(name):
        return sorted(str(path) for path in _within(name) if _is_meant(path.relative_to(name).parts)), True
    if os.path.lexists(name) or not _PATTERN & set(name):
        return [name] if os.path.exists(name) else [], False
    return sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path)), False


def _within(folder: str) -> Iterator[Path]:
    """All files of a folder; one that links lead back to is looked into once."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        found = os.stat(here)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        yield from (Path(here, name) for name in names)


def _far_files(name: str) -> tuple[list[str], bool]:
    system, path = filesystem(name)
    if far(system.isdir, path):
        root = path.rstrip("/")
        there = [file for file in far(system.find, path) if _is_meant(file.removeprefix(root).split("/"))]
        return sorted(system.unstrip_protocol(file) for file in there), True
    if far(system.isfile, path) or not _PATTERN & set(path):
        return [name] if far(system.exists, path) else [], False
    return sorted(system.unstrip_protocol(file) for file in far(system.glob, path) if far(system.isfile, file)), False


def _is_meant(parts: tuple[str, ...] | list[str]) -> bool:
    return not any(part.startswith((".", "_")) for part in parts)


def _is_known(name: str) -> bool:
    try:
        format_of(name)
    except InvalidFile:
        return False
    return True
