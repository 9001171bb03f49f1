"""From the predictions of one sample, untouched and under each attack, to what each attack costs: pure, no model.

    recall            of the harmful items, the share that was stopped
    false positives   of the acceptable items, the share that was stopped
    change            after − before, on the same items: recall lost is negative, false alarms gained are positive

As everywhere, an item that could not be judged counts as stopped; `unscored` says how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from guard.errors import InvalidFile
from guard.measure.intervals import paired_difference
from guard.measure.metrics import Judged, false_positive_rate, recall

from ..report import Block, estimate
from ..score import Json, columns
from .attack import Attack


def figures(untouched: pl.DataFrame, attacked: Mapping[str, pl.DataFrame], attacks: Sequence[Attack]) -> Json:
    """The figures of each attack, the most recall lost first, and of all of them.

    Raises `InvalidFile` where the predictions are not of the same items.
    """
    before = untouched.sort("id")
    judged = columns(before)
    rows = []
    for attack in attacks:
        after = attacked[attack.name].sort("id")
        require_alike(before, after, attack.name)
        rows.append(
            {"attack": attack.name, "family": attack.family, "description": attack.description,
             **changes(judged, replace(columns(after), groups=judged.groups))}
        )  # fmt: skip
    rows.sort(key=lambda row: (row["recall"]["change"]["value"], row["attack"]))
    return {
        "recall": recall(judged, "harmful").as_json(),
        "false_positives": false_positive_rate(judged).as_json(),
        "attacks": rows,
        "mean_change": {name: _mean([row[name]["change"]["value"] for row in rows])
                        for name in ("recall", "false_positives")},
    }  # fmt: skip


def require_alike(untouched: pl.DataFrame, changed: pl.DataFrame, name: str) -> None:
    """Refuse to compare predictions, each in the order of its ids, of other items. Raises `InvalidFile`."""
    same = ("id", "gold_label", "harmful")
    if not untouched.select(same).equals(changed.select(same)):
        raise InvalidFile(
            f"The predictions under {name!r} are not of the items that were judged untouched.",
            hint="Run the command again into an empty folder.",
        )


def changes(before: Judged, after: Judged) -> Json:
    """Recall and false positives of the same items before and after, their change, and how many are unscored."""
    found: Json = {}
    for name, of, mask, empty in (
        ("recall", lambda judged: recall(judged, "harmful"), before.harmful, "no item is harmful"),
        ("false_positives", false_positive_rate, ~before.harmful, "no item is acceptable"),
    ):
        change = paired_difference(~before.accepted[mask], ~after.accepted[mask], before.groups[mask], empty)
        found[name] = {"before": of(before).as_json(), "after": of(after).as_json(), "change": change.as_json()}
    return {**found, "unscored": int(np.isnan(after.score).sum())}


def _mean(changes: Sequence[float | None]) -> float | None:
    known = [change for change in changes if change is not None]
    return round(sum(known) / len(known), 6) if known else None


def blocks(found: Json) -> list[Block]:
    """The figures as a part of a report."""
    asked, mean = found["asked"], found["mean_change"]
    rows = [
        (row["attack"], row["description"],
         estimate(row["recall"]["after"]), change(row["recall"]["change"]),
         estimate(row["false_positives"]["after"]), change(row["false_positives"]["change"]), str(row["unscored"]))
        for row in found["attacks"]
    ]  # fmt: skip
    return [
        Block("heading", "Attacks on the judge"),
        Block("text", f"{found['model']} under {found['policy']}, its own thresholds, "
              f"defences: {', '.join(found['defences']) or 'none'}. The same items of "
              f"{' and '.join(asked['sets'])}, {found['recall']['n']} harmful and {found['false_positives']['n']} "
              f"acceptable ones (at most {asked['per_class']} of a class, seed {asked['seed']}), were judged untouched "
              "and under each attack. A change is after − before, with its 95 % interval for pairs."),
        Block("text", f"Untouched: harmful stopped {estimate(found['recall'])}; acceptable stopped "
              f"{estimate(found['false_positives'])}. Mean change over the attacks: {points(mean['recall'])} of "
              f"recall, {points(mean['false_positives'])} of false positives."),
        Block("table", rows=(
            ("attack", "what it does", "harmful stopped", "change in points", "acceptable stopped", "change in points",
             "unscored"), *rows)),
    ]  # fmt: skip


def change(found: Json) -> str:
    """A change with its interval, in points; a dash with the reason where there is none."""
    if found["value"] is None:
        return f"– ({found['reason']})"
    value, low, high = (f"{100 * found[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def points(share: float | None) -> str:
    """A change of a share, in points."""
    return "undefined" if share is None else f"{100 * share:+.1f} points"
