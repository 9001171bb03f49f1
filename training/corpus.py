"""Stage 1: all that training reads, in two files, in a fixed order.

`texts.jsonl.gz`: texts without labels, for tokenizer and pre-training: those of the public training rows, and prose.
`examples.jsonl.gz`: labelled rows and preferences, our own among them, for tuning and measuring.

Later stages read these files alone, so their hashes say what they were made from; new rows of our own leave the
pre-training as it is.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guard.item import Item, Kind
from training.config import Config
from training.sources import (
    SOURCE_CAP,
    UNLABELLED,
    Example,
    authored_examples,
    preferred_answers,
    public_examples,
    read_rows,
)  # fmt: skip


def files(config: Config) -> tuple[Path, Path]:
    """The files of texts and of examples."""
    return config.work / "texts.jsonl.gz", config.work / "examples.jsonl.gz"


def write(config: Config) -> None:
    """Assemble both files. Of rows that are equal one is kept."""
    for path, rows in zip(files(config), (_texts(config), _labelled(config)), strict=True):
        part = path.with_suffix(".part")
        seen: set[str] = set()
        with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            for row in rows:
                line = json.dumps(row, ensure_ascii=False)
                if line not in seen:
                    seen.add(line)
                    file.write(line.encode() + b"\n")
        os.replace(part, path)


def _texts(config: Config) -> Iterator[dict[str, Any]]:
    by_source: dict[str, list[Item]] = defaultdict(list)
    for example in public_examples(config):
        if example.split == "train":
            by_source[example.source].append(example.item)
    draw = random.Random(config.seed)
    for items in by_source.values():  # a source of many like texts must not fill its kind
        for item in draw.sample(items, min(len(items), SOURCE_CAP)):
            yield {"kind": item.kind.value, "text": item.text}
    for name in UNLABELLED:
        for row in read_rows(config.data / f"{name}.jsonl.gz"):
            if row["text"].strip():
                yield {"kind": None, "text": row["text"]}


def _labelled(config: Config) -> Iterator[dict[str, Any]]:
    for example in (*public_examples(config), *authored_examples(config)):
        yield {"example": {**asdict(example), "item": _dumped(example.item)}}
    for pair in preferred_answers(config):
        yield {"preferred": [_dumped(item) for item in pair]}


def _dumped(item: Item) -> dict[str, Any]:
    return item.model_dump(mode="json", exclude_none=True)


def _read(config: Config, what: str) -> Iterator[Any]:
    for row in read_rows(files(config)[1]):
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


def texts(config: Config) -> dict[Kind | None, list[str]]:
    """Texts without labels, by kind of item; prose under None."""
    found: dict[Kind | None, list[str]] = defaultdict(list)
    for row in read_rows(files(config)[0]):
        found[Kind(row["kind"]) if row["kind"] else None].append(row["text"])
    return found


def shuffled(config: Config) -> list[str]:
    """All texts without labels, in a random order."""
    every = [text for some in texts(config).values() for text in some]
    random.Random(config.seed).shuffle(every)
    return every
