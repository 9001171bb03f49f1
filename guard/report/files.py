"""A file under its final name is whole."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text beside `path`, then move it there; its line breaks stay as they are. Raises `OSError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding=encoding, newline="")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
