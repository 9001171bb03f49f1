"""What each stage was made from and what it made, by SHA-256: so a stage runs only where it has to.

A stage is up to date when the manifest names just the inputs that lie there now and its outputs are untouched. The
manifest of the weights that ship is `models/embedded.manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import Config


@dataclass(frozen=True)
class Stage:
    """`run(config, inputs)` reads files and settings and leaves the outputs; `inputs` is their digest."""

    run: Callable[[Config, str], None]
    reads: Callable[[Config], Iterable[Path]]
    writes: Callable[[Config], Iterable[Path]]
    settings: tuple[str, ...] = ()  # names in `Config`, besides the seed


def inputs_of(stage: Stage, config: Config) -> dict[str, str]:
    """Settings by name and files by hash. Raises `FileNotFoundError` where a stage before has not run."""
    values = asdict(config)
    settings = {name: str(values[name]) for name in ("seed", *stage.settings)}
    return {**settings, **{_named(path, config): file_hash(path) for path in sorted(stage.reads(config))}}


def digest(inputs: dict[str, str]) -> str:
    """One hash over all inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def run(stages: dict[str, Stage], names: Iterable[str], config: Config) -> None:
    """Run the named stages in order, but for those that are up to date, and write the manifest after each."""
    for name in names:
        stage = stages[name]
        manifest = read(config)
        inputs = inputs_of(stage, config)
        if up_to_date(manifest.get(name), inputs, stage, config):
            print(f"stage {name}: up to date", flush=True)
            continue
        print(f"stage {name}", flush=True)
        began = time.monotonic()
        stage.run(config, digest(inputs))
        outputs = {_named(path, config): file_hash(path) for path in sorted(stage.writes(config))}
        minutes = round((time.monotonic() - began) / 60, 1)
        write(config, {**manifest, name: {"inputs": inputs, "outputs": outputs, "minutes_of_last_run": minutes}})


def up_to_date(entry: dict[str, Any] | None, inputs: dict[str, str], stage: Stage, config: Config) -> bool:
    """Were these inputs used, and do the outputs lie there as they were left?"""
    if entry is None or entry["inputs"] != inputs:
        return False
    paths = list(stage.writes(config))
    return all(path.is_file() and entry["outputs"].get(_named(path, config)) == file_hash(path) for path in paths)


def read(config: Config) -> dict[str, Any]:
    """The manifest, stage by stage; empty where there is none."""
    if not config.manifest.is_file():
        return {}
    found: dict[str, Any] = json.loads(config.manifest.read_text(encoding="utf-8"))
    return found


def write(config: Config, manifest: dict[str, Any]) -> None:
    part = config.manifest.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(part, config.manifest)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(path: Path, config: Config) -> str:
    """A file's name wherever the folders lie: `data/x.jsonl.gz`, `work/tune.pt`."""
    for name in ("data", "authored", "work", "out", "root"):
        folder: Path = getattr(config, name)
        if path.is_relative_to(folder):
            return f"{name}/{path.relative_to(folder)}"
    return path.name
