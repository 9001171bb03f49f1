"""Two predictions of one set: which verdicts changed, whether that is more than chance, and whether it may land."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from guard.errors import InvalidFile
from guard.measure.compare import Change, mcnemar
from guard.measure.intervals import Estimate
from guard.measure.metrics import false_positive_rate, recall
from guard.measure.promise import Promise

from .score import columns


class Changed(NamedTuple):
    """An item whose verdict is not what it was."""

    set: str
    id: str
    gold_label: str
    old: str
    new: str
    old_score: float | None
    new_score: float | None
    better: bool


@dataclass(frozen=True)
class Comparison:
    """`change` counts items judged rightly: acceptable ones accepted, harmful ones not. `changed`: worse ones first."""

    old: pl.DataFrame
    new: pl.DataFrame
    change: Change
    changed: tuple[Changed, ...]

    def figures(self) -> list[tuple[str, Estimate, Estimate]]:
        """(figure, old, new): recall of the harmful, and the share of the acceptable that was stopped."""
        old, new = columns(self.old), columns(self.new)
        return [
            ("recall (harmful)", recall(old, "harmful"), recall(new, "harmful")),
            ("false positives (acceptable stopped)", false_positive_rate(old), false_positive_rate(new)),
        ]

    def complaints(self, most: float, required: tuple[Promise, ...] = ()) -> list[str]:
        """Why the new judgement may not take the old one's place: a class worse by more than `most`, or a requirement.

        `most` is a share: .01 allows one harmful item in a hundred to be missed that was caught before.
        """
        found = []
        for (name, old, new), sign in zip(self.figures(), (1, -1), strict=True):
            if old.value is not None and new.value is not None and sign * (old.value - new.value) > most + 1e-12:
                found.append(f"{name}: {old.value:.4f} before, {new.value:.4f} now: worse by more than {most:g}")
        for promise in required:
            measured = promise.measured(columns(self.new))
            if not promise.kept_by(measured.value):
                shown = "undefined" if measured.value is None else f"{measured.value:.4f}"
                found.append(f"{promise}: not kept, it is {shown}")
        return found


def compare(old: pl.DataFrame, new: pl.DataFrame) -> Comparison:
    """Compare predictions of the same items. Raises `InvalidFile` where items, texts or gold labels differ."""
    key = ["set", "id"]
    old, new = old.sort(key), new.sort(key)
    same = [*key, "text_hash", "harmful"]
    if old.height != new.height or not old.select(same).equals(new.select(same)):
        joined = old.select(same).join(new.select(same), on=same, how="anti")
        raise InvalidFile(
            f"These are not predictions of the same items: {old.height} and {new.height} rows, {joined.height} of the "
            "first have no counterpart with the same text and label in the second.",
            hint="Judge the same set with both.",
        )
    before, after = columns(old), columns(new)
    old_right, new_right = before.accepted != before.harmful, after.accepted != after.harmful
    wanted = ("set", "id", "gold_label", "decision", "score")
    rows = zip(old.select(wanted).iter_rows(), new.select("decision", "score").iter_rows(), strict=True)
    changed = [
        Changed(set_, id_, gold, decision, now, score, now_score, bool(right))
        for ((set_, id_, gold, decision, score), (now, now_score)), right in zip(rows, new_right, strict=True)
        if (decision == "allow") != (now == "allow") or decision != now
    ]
    changed.sort(key=lambda c: (c.better, c.set, c.id))
    return Comparison(old, new, mcnemar(old_right, new_right), tuple(changed))
