"""What a thread adds: the set `threads` judged with its threads and without them, and the gain.

Each family is one comment in two threads, harmful in one and acceptable in the other. Without the thread both are the
same text: whatever the judge says, half of its verdicts are wrong. Intervals are those of a bootstrap over families,
and a gain is computed on the same resamples for both, so that it is a paired one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from guard.errors import InvalidFile
from guard.labelled import LabelledSet
from guard.measure.intervals import RESAMPLES, SEED, Estimate, Floats, bootstrapped, undefined
from guard.policy import Policy
from guard.settings import Settings

from . import report
from .run import Source, load, run, write_json
from .score import Json
from .sets import THREADS, own_set

ALONE = f"{THREADS}-alone"
GAIN = "gain.json"
FIGURES = {
    "auroc": "AUROC",
    "told_apart": "families told apart",
    "right": "judged rightly",
    "precision": "precision, harmful positive",
    "recall": "recall, harmful positive",
    "false_positive_rate": "acceptable that were stopped",
}
_MAIN = ("auroc", "told_apart", "right")  # the figures that are shown of a category, too
_PARTS = {"all": "all", "worse": "a thread makes it worse", "harmless": "a thread makes it harmless"}


class Families(NamedTuple):
    """F families: score and verdict (was it not accepted?) of the harmful and of the acceptable item, [F] each."""

    harmful_score: Floats
    harmful_stopped: Floats
    acceptable_score: Floats
    acceptable_stopped: Floats

    def of(self, rows: NDArray[np.int64]) -> Families:
        """The families of these numbers."""
        return Families(*(column[rows] for column in self))

    def figures(self, weights: Floats) -> dict[str, Floats]:
        """Every figure where families stand as often as `weights` [R, F] says: [R]; NaN where it is undefined.

        >>> two = Families(*map(np.array, ([.9, .4], [1., 0.], [.9, .1], [1., 0.])))
        >>> found = two.figures(np.ones((1, 2)))
        >>> {name: round(float(values[0]), 3) for name, values in found.items()}  # doctest: +NORMALIZE_WHITESPACE
        {'auroc': 0.625, 'told_apart': 0.75, 'right': 0.5, 'precision': 0.5, 'recall': 0.5,
         'false_positive_rate': 0.5}
        """
        above = _above(self.harmful_score[:, None], self.acceptable_score[None])
        n = weights.sum(axis=1)
        caught, alarms = weights @ self.harmful_stopped, weights @ self.acceptable_stopped
        stopped = caught + alarms
        return {
            "auroc": ((weights @ above) * weights).sum(axis=1) / n**2,
            "told_apart": weights @ _above(self.harmful_score, self.acceptable_score) / n,
            "right": (n + caught - alarms) / (2 * n),
            "precision": np.divide(caught, stopped, out=np.full_like(caught, np.nan), where=stopped > 0),
            "recall": caught / n,
            "false_positive_rate": alarms / n,
        }


def without_threads(labelled: LabelledSet) -> LabelledSet:
    """The same items without their context."""
    bare = {"parent": None, "title": None}
    items = tuple(one._replace(item=one.item.model_copy(update=bare)) for one in labelled.items)
    return LabelledSet(ALONE, items)


def judge(
    policy: Policy, setting: Settings, folder: Path, *, command: str, on_progress: Callable[[str, int, int], None]
) -> Json:
    """Judge the set with and without its threads and write `folder`/gain.json and gain.md. Returns what was written."""
    labelled = own_set(THREADS)
    sources = [Source(labelled, THREADS), Source(without_threads(labelled), ALONE)]
    run(sources, [policy], [setting], folder, command=command, on_progress=on_progress)
    found = score_folder(folder)
    write_json(folder / GAIN, found)
    (folder / "gain.md").write_text(as_markdown(found), encoding="utf-8")
    return found


def score_folder(folder: Path) -> Json:
    """The figures of a folder that `judge` wrote, from its predictions. Raises `InvalidFile`."""
    manifest, cells = load(folder)
    frames = {cell["set"]: frame for cell, frame in cells}
    if set(frames) != {THREADS, ALONE}:
        raise InvalidFile(f"{folder}: not predictions with and without threads.", hint="Run `python -m eval threads`.")
    about = {name: cells[0][0][name] for name in ("policy", "policy_version", "policy_hash", "model")}
    return {
        **{name: manifest[name] for name in ("guard", "command", "machine")},
        **about,
        "hashes": {cell["set"]: cell["set_hash"] for cell, _ in cells},
        "parts": gain(frames[ALONE], frames[THREADS]),
    }


def gain(alone: pl.DataFrame, thread: pl.DataFrame) -> list[Json]:
    """For all families, for each direction and for each category: the figures without, with, and their difference.

    Raises `InvalidFile` where an item has no score or a family is not one harmful and one acceptable item.
    """
    order = thread.filter("harmful").sort("group")
    families = [_families(frame) for frame in (alone, thread)]
    slices, labels = order["slices"].to_list(), order["gold_label"].to_list()
    inside = {"all": np.ones(order.height, bool)}
    inside |= {name: np.array([f"tag: {name}" in found for found in slices]) for name in ("worse", "harmless")}
    inside |= {label: np.array([found == label for found in labels]) for label in sorted(set(labels))}
    return [_part(name, *(side.of(np.flatnonzero(rows)) for side in families)) for name, rows in inside.items()]


def as_markdown(found: Json) -> str:
    """The figures as a page: all of them for all families and each direction, and the main ones for each category."""
    rows = [
        (_PARTS.get(part["part"], part["part"]), shown, _shown(part["alone"][name]), _shown(part["thread"][name]),
         _shown(part["gain"][name], sign="+", unit="points"))
        for part in found["parts"] for name, shown in FIGURES.items()
        if part["part"] in _PARTS or name in _MAIN
    ]  # fmt: skip
    counted = ", ".join(f"{_PARTS.get(p['part'], p['part'])} {p['families']}" for p in found["parts"])
    return report.as_markdown([
        report.Block("heading", "What a thread adds", 1),
        report.Block("text", "The same comments judged without and with the thread that they stand in. A family is one "
                     "comment in two threads, harmful in one of them, so that without the thread half of all verdicts "
                     "are wrong whatever the judge says. A family is told apart where its harmful item scores higher "
                     "(a tie counts half). Every figure stands with its 95 % interval over families; those of a gain "
                     "are paired."),
        report.Block("text", f"Families: {counted}. Policy {found['policy']} v{found['policy_version']}, model "
                     f"{found['model']}, guard {found['guard']}; {found['machine']}."),
        report.Block("table", rows=(("families", "figure", "without thread", "with thread", "gain"), *rows)),
        report.Block("code", found["command"]),
    ])  # fmt: skip


def _families(frame: pl.DataFrame) -> Families:
    if frame["score"].null_count():
        raise InvalidFile(
            f"{frame['score'].null_count()} items have no score, so nothing can be compared.", hint="Judge them again."
        )
    sides = [frame.filter(pl.col("harmful") == harmful).sort("group") for harmful in (True, False)]
    if not (sides[0]["group"].equals(sides[1]["group"]) and sides[0]["group"].is_unique().all()):
        raise InvalidFile("A family is one harmful and one acceptable item.", hint="Run `python -m eval threads`.")
    columns = [[side["score"].to_numpy(), (side["decision"] != "allow").cast(pl.Float64).to_numpy()] for side in sides]
    return Families(*columns[0], *columns[1])


def _part(name: str, alone: Families, thread: Families) -> Json:
    n = len(alone.harmful_score)
    once = np.ones((1, n))
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    values = [side.figures(once) for side in (alone, thread)]
    resampled = [side.figures(drawn) for side in (alone, thread)]
    found: Json = {"part": name, "families": n, "alone": {}, "thread": {}, "gain": {}}
    for figure in FIGURES:
        for side, value, spread in zip(("alone", "thread"), values, resampled, strict=True):
            found[side][figure] = _estimate(value[figure], spread[figure], n).as_json()
        gained, spread_of_gain = (after[figure] - before[figure] for before, after in (values, resampled))
        found["gain"][figure] = _estimate(gained, spread_of_gain, n).as_json()
    return found


def _estimate(value: Floats, resampled: Floats, n: int) -> Estimate:
    if np.isnan(value[0]):
        return undefined("nothing was stopped", n)
    return bootstrapped(float(value[0]), resampled, n)


def _above(first: Floats, second: Floats) -> Floats:
    """1 where the first is the larger, 1/2 where both are the same."""
    return np.asarray((first > second) + 0.5 * (first == second))


def _shown(found: Json, sign: str = "", unit: str = "%") -> str:
    if found["value"] is None:
        return f"– ({found['reason']})"
    value, low, high = (f"{100 * found[name]:{sign}.1f}" for name in ("value", "low", "high"))
    return f"{value} {unit} ({low} to {high})"
