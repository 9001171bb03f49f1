"""A measurement: a sample judged untouched and under each attack, its rows kept, and the figures made from them.

FOLDER/run.json, predictions/*.parquet   one row per item and attack; a run that was killed goes on with them
FOLDER/attacks.json, attacks.md          the figures and the table, made from the rows alone
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.labelled import LabelledSet
from guard.moderator import Moderator
from guard.policy import Policy
from guard.settings import Settings

from ..report import Block, as_markdown
from ..run import Source, run, write_json
from ..run import load as read_run
from ..score import Json
from .attack import Attack
from .figures import blocks, figures
from .sample import UNTOUCHED, sample, under

FIGURES, TABLE = "attacks.json", "attacks.md"


@dataclass(frozen=True)
class Asked:
    """What is measured: sets by their names, attacks, items of each class at most, and the seed of both."""

    sets: tuple[str, ...]
    attacks: tuple[Attack, ...]
    per_class: int
    seed: int


def measure(
    sets: Sequence[LabelledSet], asked: Asked, policy: Policy, settings: Settings, folder: Path, *, command: str,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    load: Callable[[Settings], Moderator] = Moderator.load,
) -> Json:  # fmt: skip
    """Judge, or what is left of it, and write the figures. Raises `InvalidFile` as `sample` does."""
    untouched = sample(sets, policy, asked.per_class, asked.seed)
    treated = [under(attack, untouched, asked.seed) for attack in asked.attacks]
    named = " + ".join(asked.sets)
    run(
        [Source(labelled, named) for labelled in (untouched, *treated)], [policy], [settings], folder,
        command=command, on_progress=on_progress, load=load,
    )  # fmt: skip
    manifest, cells = read_run(folder)
    frames = {cell["set"]: frame for cell, frame in cells}
    first = cells[0][0]
    found = {
        "guard": manifest["guard"],
        "command": command,
        "machine": manifest["machine"],
        "asked": {"sets": list(asked.sets), "per_class": asked.per_class, "seed": asked.seed},
        "policy": f"{first['policy']} v{first['policy_version']}",
        "policy_hash": first["policy_hash"],
        "model": first["model"],
        "defences": first["defences"],
        "seconds": round(sum(cell["seconds"] for cell, _ in cells), 1),
        **figures(frames[UNTOUCHED], frames, asked.attacks),
    }
    write_json(folder / FIGURES, found)
    (folder / TABLE).write_text(as_markdown(blocks(found)), encoding="utf-8")
    return found


def part(folder: Path) -> list[Block]:
    """What a report says of the measurement in `folder`; nothing where there is none."""
    file = folder / FIGURES
    return blocks(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []
