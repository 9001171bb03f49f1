"""Stage 1: all that training reads, in one file, in a fixed order: examples, preferences and plain prose.

Later stages read this file alone, so its hash says what they were made from.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from guard.item import Item
from training.config import Config
from training.sources import UNLABELLED, Example, authored_examples, preferred_answers, public_examples, read_rows


def write(config: Config) -> None:
    """Assemble the file. Of examples that say the same about the same text of a source, one is kept."""
    part = config.work / "corpus.part"
    seen: set[str] = set()
    with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        for row in _rows(config):
            line = json.dumps(row, ensure_ascii=False)
            if line not in seen:
                seen.add(line)
                file.write(line.encode() + b"\n")
    os.replace(part, config.work / "corpus.jsonl.gz")


def _rows(config: Config) -> Iterator[dict[str, Any]]:
    for example in (*public_examples(config), *authored_examples(config)):
        yield {"example": {**asdict(example), "item": _dumped(example.item)}}
    for pair in preferred_answers(config):
        yield {"preferred": [_dumped(item) for item in pair]}
    for name in UNLABELLED:
        for row in read_rows(config.data / f"{name}.jsonl.gz"):
            if row["text"].strip():
                yield {"prose": row["text"]}


def _dumped(item: Item) -> dict[str, Any]:
    return item.model_dump(mode="json", exclude_none=True)


def _read(config: Config, what: str) -> Iterator[Any]:
    for row in read_rows(config.work / "corpus.jsonl.gz"):
        if what in row:
            yield row[what]


def examples(config: Config, split: str) -> list[Example]:
    """The examples of one split: "train", or everything else."""
    found = []
    for row in _read(config, "example"):
        if (row["split"] == "train") == (split == "train"):
            known: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in row.items()}
            known["item"] = Item(**row["item"])
            found.append(Example(**known))
    return found


def preferences(config: Config) -> list[tuple[Item, Item]]:
    """(more harmful, less harmful) answers to the same prompt."""
    return [(Item(**worse), Item(**better)) for worse, better in _read(config, "preferred")]


def prose(config: Config) -> list[str]:
    """Texts without labels."""
    return list(_read(config, "prose"))


def plain_texts(config: Config) -> list[str]:
    """Texts without use of their labels: those of the training examples, and the prose."""
    return [*(example.item.text for example in examples(config, "train")), *prose(config)]
