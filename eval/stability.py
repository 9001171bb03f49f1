"""Stability: the same items judged again with something changed that should not matter, and how many verdicts flip.

FOLDER/CHANGE/                        a run of the sample, `untouched` or changed, rows kept; a killed one goes on
FOLDER/stability.json, stability.md   the figures and the table, made from the rows alone

    flip            an item that was accepted and no longer is, or the other way round
    near            within .1 of the policy's threshold when untouched: there a small change of the score is enough

As everywhere, an item that could not be judged counts as stopped; `unscored` says how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import polars as pl

from guard.measure.intervals import rate
from guard.measure.metrics import Judged
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.resources import shipped
from guard.settings import Settings
from guard.verdict import Verdict

from .attacks.attack import SEED
from .attacks.figures import change, changes, require_alike
from .attacks.sample import PER_CLASS, UNTOUCHED, sample
from .report import Block, as_markdown, estimate
from .run import Source, load, run, write_json
from .score import Json, columns

FIGURES, TABLE = "stability.json", "stability.md"
NEAR = 0.1  # of the threshold, in score
ALONE, REVERSED, SHUFFLED, WORDING = "alone", "reversed", "shuffled", "second-wording"
CHANGES = {
    ALONE: "each item in a call of its own",
    REVERSED: "the policy's categories in reversed order",
    SHUFFLED: "the policy's categories in a shuffled order",
    WORDING: "asked in the second wording alone (prompts/second)",
}


class OneByOne(Moderator):
    """Another moderator that hands its engine one item at a time."""

    def __init__(self, moderator: Moderator) -> None:
        vars(self).update(vars(moderator))

    def judge_many(self, tasks: Sequence[Task]) -> list[Verdict]:
        judge = super().judge_many
        return [verdict for task in tasks for verdict in judge([task])]


def orders(policy: Policy, seed: int) -> dict[str, Policy]:
    """The policy with its categories in reversed order and in one of the others, as far as there are any.

    Nothing else changes: its calibration and its thresholds stay in force.
    """
    given = policy.categories
    found = {REVERSED: given[::-1]} if len(given) > 1 else {}
    if len(given) > 2:
        draw, mixed = Random(seed), given
        while mixed in (given, given[::-1]):
            mixed = tuple(draw.sample(given, len(given)))
        found[SHUFFLED] = mixed
    return {name: policy.model_copy(update={"categories": categories}) for name, categories in found.items()}


def measure(
    sources: Sequence[Source], policy: Policy, settings: Settings, folder: Path, *, command: str,
    per_class: int = PER_CLASS, seed: int = SEED,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    load: Callable[[Settings], Moderator] = Moderator.load,
) -> Json:  # fmt: skip
    """Judge a sample of the sets as it is and under each change, or what is left of it, and write the figures.

    Raises `InvalidFile` as `sample` does.
    """
    drawn = sample([source.labelled for source in sources], policy, per_class, seed)
    named = [source.named for source in sources]
    judge = load(settings)
    ways = {
        UNTOUCHED: (judge, policy),
        ALONE: (OneByOne(judge), policy),
        **{name: (judge, other) for name, other in orders(policy, seed).items()},
        WORDING: (judge.worded(shipped("prompts") / "second"), policy),
    }
    runs: dict[str, tuple[Json, Json, pl.DataFrame]] = {}
    for name, (moderator, under) in ways.items():
        source = Source(replace(drawn, name=name), " + ".join(named))
        runs[name] = _judged(source, moderator, under, folder / name, command, on_progress)
    manifest, cell, _ = runs[UNTOUCHED]
    found = {
        "guard": manifest["guard"],
        "command": command,
        "machine": manifest["machine"],
        "asked": {"sets": named, "per_class": per_class, "seed": seed},
        "policy": f"{policy.id} v{policy.version}",
        "policy_hash": policy.hash,
        "model": cell["model"],
        "defences": cell["defences"],
        "seconds": round(sum(cell["seconds"] for _, cell, _ in runs.values()), 1),
        **figures({name: frame for name, (_, _, frame) in runs.items()}, policy.threshold),
    }
    write_json(folder / FIGURES, found)
    (folder / TABLE).write_text(as_markdown(blocks(found)), encoding="utf-8")
    return found


def _judged(
    source: Source, moderator: Moderator, policy: Policy, folder: Path, command: str,
    on_progress: Callable[[str, int, int], None],
) -> tuple[Json, Json, pl.DataFrame]:  # fmt: skip
    """One run, and its manifest, its only cell and the rows of that."""
    run(
        [source], [policy], [moderator.settings], folder, command=command, on_progress=on_progress,
        load=lambda _: moderator,
    )  # fmt: skip
    manifest, [(cell, frame)] = load(folder)
    return manifest, cell, frame


def figures(frames: Mapping[str, pl.DataFrame], threshold: float) -> Json:
    """The figures of each change, from the predictions of one sample `untouched` and under them.

    Raises `InvalidFile` where the predictions are not of the same items.
    """
    frames = {name: frame.sort("id") for name, frame in frames.items()}
    untouched = frames.pop(UNTOUCHED)
    before = columns(untouched)
    near = np.abs(before.score - threshold) <= NEAR
    rows: list[Json] = []
    for name, frame in frames.items():
        require_alike(untouched, frame, name)
        after = replace(columns(frame), groups=before.groups)
        flipped = before.accepted != after.accepted
        rows.append(
            {
                "change": name,
                "flips": rate(flipped, before.groups, "no item was judged").as_json(),
                "flips_near": rate(flipped[near], before.groups[near], "no score is near the threshold").as_json(),
                "harmful_now_missed": int((flipped & before.harmful & after.accepted).sum()),
                "harmful_now_stopped": int((flipped & before.harmful & before.accepted).sum()),
                "acceptable_now_stopped": int((flipped & ~before.harmful & before.accepted).sum()),
                "acceptable_now_accepted": int((flipped & ~before.harmful & after.accepted).sum()),
                "score": _moved(before, after),
                **changes(before, after),
            }
        )
    return {
        "threshold": threshold, "items": len(near), "near": int(near.sum()),
        "unscored": int(np.isnan(before.score).sum()), "changes": rows,
    }  # fmt: skip


def _moved(before: Judged, after: Judged) -> Json:
    """By how much the scores of the `n` items that have both changed, whatever the direction; None where n is 0."""
    moved = np.abs(after.score - before.score)
    moved = moved[~np.isnan(moved)]
    mean, largest = (round(float(of(moved)), 6) for of in (np.mean, np.max)) if len(moved) else (None, None)
    return {"mean": mean, "largest": largest, "n": len(moved)}


def part(folder: Path) -> list[Block]:
    """What a report says of the measurement in `folder`; nothing where there is none."""
    file = folder / FIGURES
    return blocks(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []


def beside_headline(folder: Path) -> list[Block]:
    """The one sentence about it that stands beside the headline; nothing where nothing was measured."""
    file = folder / FIGURES
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    flips = "; ".join(f"{CHANGES[row['change']]}: {estimate(row['flips_near'])}" for row in found["changes"])
    return [Block("text", f"How many verdicts of {found['model']} under {found['policy']} flip near the threshold when "
                  f"something changes that should not matter ({found['near']} of {found['items']} items are within "
                  f"{NEAR} of it): {flips}.")]  # fmt: skip


def blocks(found: Json) -> list[Block]:
    """The figures as a part of a report."""
    asked = found["asked"]
    rows = [
        (row["change"], CHANGES[row["change"]], estimate(row["flips"]), estimate(row["flips_near"]),
         f"{row['harmful_now_missed']} / {row['harmful_now_stopped']}",
         f"{row['acceptable_now_stopped']} / {row['acceptable_now_accepted']}", _score(row["score"]),
         change(row["recall"]["change"]), change(row["false_positives"]["change"]), str(row["unscored"]))
        for row in found["changes"]
    ]  # fmt: skip
    return [
        Block("heading", "Stability of the verdicts"),
        Block("text", f"{found['model']} under {found['policy']}, its own thresholds, "
              f"defences: {', '.join(found['defences']) or 'none'}. {found['items']} items of "
              f"{' and '.join(asked['sets'])} (at most {asked['per_class']} of a class, seed {asked['seed']}) were "
              "judged together, and again with one thing changed that should not matter. A verdict flips where an item "
              "was accepted and no longer is, or the other way round. Near are the items whose untouched score is "
              f"within {NEAR} of the threshold {found['threshold']:g}: {found['near']}. Changes of recall and of false "
              "positives are after − before, with their 95 % intervals for pairs. An item that could not be judged "
              f"counts as stopped; untouched, there are {found['unscored']} of them."),
        Block("table", rows=(
            ("change", "what is changed", "verdicts that flip", "of those near the threshold",
             "harmful: now missed / now stopped", "acceptable: now stopped / now accepted",
             "score: mean and largest absolute change", "recall, change in points",
             "false positives, change in points", "unscored"), *rows)),
    ]  # fmt: skip


def _score(found: Json) -> str:
    return f"{found['mean']:.4f}, {found['largest']:.4f}" if found["n"] else "– (no item has two scores)"
