"""What each defence of `guard` gains under attack, and what it costs on texts that nobody disguised.

FOLDER/NAME/                  a measurement (`measure`) under the defences of that name, rows kept
FOLDER/defences.json          the figures, made from these rows, and the tokens that the model reads
FOLDER/defences.md            the tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from guard.engine.request import Engine, LogProbs, Request
from guard.errors import EngineError
from guard.labelled import LabelledSet
from guard.measure.metrics import Judged
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.settings import Settings

from ..report import Block, as_markdown, estimate
from ..run import load, write_json
from ..score import Json, columns
from . import measure
from .figures import change, changes, points
from .measure import Asked
from .sample import UNTOUCHED, sample

FIGURES, TABLE = "defences.json", "defences.md"
COMBINATIONS = ("none", "fold", "fold+decode", "fold+decode+parts", "fold+decode+wording")
PER_CLASS = 50  # with 25 attacks and five combinations some 20,000 questions, many of them short: 10 minutes


class Remembering:
    """An engine that is asked each question once: most texts are the same under several defences."""

    def __init__(self, engine: Engine) -> None:
        self.model_id, self.vocab_size, self.max_tokens = engine.model_id, engine.vocab_size, engine.max_tokens
        self._engine = engine
        self._known: dict[Request, LogProbs | EngineError] = {}

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        new = [request for request in dict.fromkeys(requests) if request not in self._known]
        self._known |= zip(new, self._engine.score(new) if new else (), strict=True)
        return [self._known[request] for request in requests]

    def pin(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        self._engine.pin(prefixes)

    def check(self) -> None:
        self._engine.check()


def compare(
    sets: Sequence[LabelledSet], asked: Asked, policy: Policy, settings: Settings, folder: Path, *, command: str,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Json:  # fmt: skip
    """Measure the attacks under each combination of defences, or what is left of it. Raises as `measure` does."""
    engine = Remembering(Moderator.load(settings).engine)

    @cache
    def moderator(chosen: Settings) -> Moderator:
        made = Moderator.load(chosen)
        made.engine = engine
        return made

    untouched = sample(sets, policy, asked.per_class, asked.seed)
    rows: list[Json] = []
    bare: Judged | None = None
    for name in COMBINATIONS:
        chosen = settings.model_copy(update={"defences": _defences(name)})
        found = measure.measure(
            sets, asked, policy, chosen, folder / name, command=command,
            on_progress=partial(_told, on_progress, name), load=moderator,
        )  # fmt: skip
        judged = next(columns(frame.sort("id")) for cell, frame in load(folder / name)[1] if cell["set"] == UNTOUCHED)
        bare = bare or judged
        tokens = _tokens(moderator(chosen), untouched, policy)
        rows.append({"defences": name, "tokens": tokens, **_row(found, bare, judged)})
    kept = ("guard", "machine", "asked", "policy", "policy_hash", "model")
    result = {"command": command, **{name: found[name] for name in kept}, "combinations": rows}
    write_json(folder / FIGURES, result)
    (folder / TABLE).write_text(as_markdown(blocks(result)), encoding="utf-8")
    return result


def _told(on_progress: Callable[[str, int, int], None], name: str, what: str, done: int, of: int) -> None:
    on_progress(f"{name}: {what}", done, of)


def _defences(name: str) -> tuple[str, ...]:
    return () if name == "none" else tuple(name.split("+"))


def _tokens(moderator: Moderator, untouched: LabelledSet, policy: Policy) -> int:
    """Tokens that the model reads for the untouched sample behind the policies, which it keeps."""
    tasks = (Task(one.item, policy.narrowed(None, one.item.kind)) for one in untouched.items)
    requests = (request for task in tasks for request in moderator.ask(task).requests())
    return sum(len(segment) for request in requests for segment in request.segments[1:])


def _row(found: Json, bare: Judged, judged: Judged) -> Json:
    """A combination's line: untouched texts against those without any defence, attacked ones against untouched."""
    row: Json = {}
    costs = changes(bare, judged)
    for figure in ("recall", "false_positives"):
        attacked = [(one[figure]["change"]["value"], one["attack"]) for one in found["attacks"]]
        known = [one for one in attacked if one[0] is not None]
        worst = (min if figure == "recall" else max)(known, default=(None, ""))
        row[figure] = {
            "untouched": found[figure], "against_none": costs[figure]["change"],
            "mean_change": found["mean_change"][figure],
            "worst_change": worst[0], "worst_attack": worst[1],
        }  # fmt: skip
    return row


def part(folder: Path) -> list[Block]:
    """What a report says of the measurements in `folder`, those under the default defences in full."""
    file = folder / FIGURES
    if not file.is_file():
        return measure.part(folder)
    shipped = "+".join(Settings.model_fields["defences"].default)
    return [*measure.part(folder / shipped), *blocks(json.loads(file.read_text(encoding="utf-8")))]


def blocks(found: Json) -> list[Block]:
    """The figures as a part of a report."""
    bare = found["combinations"][0]["tokens"]
    rows = [
        (row["defences"],
         estimate(row["recall"]["untouched"]), change(row["recall"]["against_none"]),
         estimate(row["false_positives"]["untouched"]), change(row["false_positives"]["against_none"]),
         f"{points(row['recall']['mean_change'])}; {_worst(row['recall'])}",
         f"{points(row['false_positives']['mean_change'])}; {_worst(row['false_positives'])}",
         f"{row['tokens'] / bare:.2f}")
        for row in found["combinations"]
    ]  # fmt: skip
    return [
        Block("heading", "Defences against them"),
        Block("text", f"{found['model']} under {found['policy']}, the same items and attacks. Untouched texts are "
              "compared with the same texts without any defence, attacked texts with untouched ones under the same "
              "defences. Tokens are those that the model reads of untouched texts, without any defence = 1."),
        Block("table", rows=(
            ("defences", "harmful stopped, untouched", "change in points", "acceptable stopped, untouched",
             "change in points", "attacked: mean change of recall; worst",
             "attacked: mean change of false positives; worst", "tokens"), *rows)),
    ]  # fmt: skip


def _worst(figure: Json) -> str:
    return f"{points(figure['worst_change'])} ({figure['worst_attack'] or 'none'})"
