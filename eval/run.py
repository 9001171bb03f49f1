"""A run: sets × policies × models → a folder of predictions with its manifest, and the figures made from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from guard import __version__
from guard.errors import InvalidFile
from guard.labelled import LabelledSet
from guard.moderator import Moderator
from guard.policy import Policy
from guard.settings import Settings

from .predict import Cell, predict, read, require_match
from .score import Json, Options, score

MANIFEST, SCORES, PREDICTIONS = "run.json", "scores.json", "predictions"


class Source(NamedTuple):
    """A set and how it was named on the command line."""

    labelled: LabelledSet
    named: str


def run(
    sources: Sequence[Source], policies: Sequence[Policy], settings: Sequence[Settings], folder: Path, *,
    command: str, on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    load: Callable[[Settings], Moderator] = Moderator.load,
) -> None:  # fmt: skip
    """Judge every set under every policy with every model (one setting each) and write `folder`/run.json.

    `load` brings the moderator that a setting describes.
    """
    names = [source.labelled.name for source in sources]
    if len(set(names)) != len(names):
        raise InvalidFile(
            f"Two sets have the name {next(n for n in names if names.count(n) > 1)!r}.", hint="Rename one."
        )
    for policy in policies:  # what cannot be judged is refused before a model is loaded
        for source in sources:
            source.labelled.gold(policy)
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for setting in settings:
        moderator = load(setting)
        for policy in policies:
            for source in sources:
                what = f"{source.labelled.name} under {policy.id} with {moderator.engine.model_id}"
                told = partial(on_progress, what)
                cells.append(
                    predict(
                        moderator, source.labelled, policy, folder / PREDICTIONS, source=source.named,
                        on_progress=told,
                    )
                )  # fmt: skip
    manifest = {
        "guard": __version__,
        "command": command,
        "machine": machine(),
        "cells": [asdict(cell) for cell in cells],
        "left_out": {
            s.labelled.name: [f"row {row}: {reason}" for row, reason in s.labelled.skipped]
            for s in sources if s.labelled.skipped
        },
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)


def load(folder: Path) -> tuple[Json, list[tuple[Json, pl.DataFrame]]]:
    """The manifest of a run and (its cell, its predictions). Raises `InvalidFile`."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        cells = manifest["cells"]
    except (OSError, ValueError, KeyError) as cause:
        raise InvalidFile(f"{path}: not the manifest of a run.", hint="Run `python -m eval run` first.") from cause
    found = []
    for cell in cells:
        frame = read(folder / PREDICTIONS / cell["file"])
        hashes = {name: set(frame[name]) for name in ("set_hash", "policy_hash", "model")}
        if frame.height != cell["items"] or any(found - {cell[name]} for name, found in hashes.items()):
            raise InvalidFile(
                f"{cell['file']}: not the predictions of this run.", hint="Run `python -m eval run` again."
            )
        found.append((cell, frame))
    return manifest, found


def score_run(folder: Path, options: Options, sets: Sequence[LabelledSet] = ()) -> Json:
    """Score a run and write `folder`/scores.json. Raises `InvalidFile` for predictions of other texts than `sets`."""
    manifest, cells = load(folder)
    by_name = {labelled.name: labelled for labelled in sets}
    for cell, frame in cells:
        if cell["set"] in by_name:
            require_match(frame, by_name[cell["set"]])
    found = {
        "guard": manifest["guard"],
        "command": manifest["command"],
        "machine": manifest["machine"],
        "options": asdict(options),
        "left_out": manifest["left_out"],
        "cells": score(cells, options),
    }
    write_json(folder / SCORES, found)
    return found


def write_json(path: Path, content: Any) -> None:
    """Write a file as a whole or not at all."""
    made = path.with_name(f".{path.name}.tmp")
    made.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    made.replace(path)


def machine() -> str:
    """The processor, its cores and the Python in use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
