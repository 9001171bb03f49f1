"""A measurement: answers asked for or read, judged, their rows kept, and the figures made from them.

FOLDER/answers.jsonl    each answer as soon as it was there, and why there is none; a run that was killed goes on
FOLDER/verdicts.jsonl   each verdict of our engine, by answer, policy and model
FOLDER/rows.jsonl       a row per prompt and system prompt: answer and verdict. Every figure is made from these alone
FOLDER/judge.jsonl      the same of our own labelled answers, for how good the judge is
FOLDER/refusal.json, refusal.md, refusal.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from guard import __version__
from guard.errors import InvalidRequest
from guard.moderator import Moderator
from guard.policy import Policy
from guard.service.assistant import assistant_of
from guard.settings import Settings

from ..report import Block, as_html, as_markdown
from ..run import machine, write_json
from ..score import Json
from .ask import Asking, Patience, ask, questions
from .figures import Partial, agreement, figures
from .judge import with_checks, with_harm, with_refusals
from .kept import ANSWERED, Kept, Row
from .prompts import prompts
from .recorded import own_answers, read_answers
from .report import blocks
from .systems import System

FIGURES, TABLE, PAGE, ROWS, JUDGE = "refusal.json", "refusal.md", "refusal.html", "rows.jsonl", "judge.jsonl"
NO_ANSWER = "nothing was answered"
_NO_ASSISTANTS = ("fake", "embedded")  # they echo, and judge


@dataclass(frozen=True)
class Measured:
    """What is measured: an assistant that is asked under system prompts, a file of recorded answers, or neither, which
    measures the judge alone. `limit`: of each set that many prompts; `scripted`: no real assistant stands behind it."""

    asking: Asking | None = None
    answers: Path | None = None
    systems: tuple[System, ...] = ()
    patience: Patience = field(default_factory=Patience)
    limit: int | None = None
    scripted: bool = False
    partial: Partial = "refusal"

    def __post_init__(self) -> None:
        if self.asking is not None and self.answers is not None:
            raise InvalidRequest("Either --target is asked, or --answers are read.", hint="Leave one of them out.")


def measure(
    what: Measured, refusals: Policy, harm: Policy, settings: Settings, folder: Path, *, command: str,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Json:  # fmt: skip
    """Ask or read, judge, and write the folder. Raises `InvalidFile`, `InvalidRequest` and `ModelUnavailable`."""
    left_out: list[str] = []
    rows: list[Row] = []
    if what.answers is not None:
        rows, left_out = read_answers(what.answers, scripted=what.scripted)
    moderator = Moderator.load(settings)
    if what.asking is not None:
        rows = _answers(what, what.asking, settings, moderator, folder, on_progress)
    with Kept(folder / "verdicts.jsonl") as kept:
        rows = with_refusals(moderator, refusals, rows, kept, on_progress)
        rows = with_checks(with_harm(moderator, harm, rows, kept, on_progress))
        own = with_refusals(moderator, refusals, own_answers(), kept, on_progress)
    _write_rows(folder / ROWS, rows)
    _write_rows(folder / JUDGE, own)
    human = any(row.get("human") and not row["own"] for row in rows)
    found = {
        "guard": __version__, "command": command, "machine": machine(),
        "asking": what.asking and asdict(what.asking), "patience": asdict(what.patience),
        "source": what.answers and what.answers.name,
        "models": sorted({row["model"] for row in rows if row.get("model")}),
        "not_real": not_real(rows, what),
        "retried": sum(bool(row.get("failures")) for row in rows),
        "model": moderator.engine.model_id,
        "policies": {name: f"{p.id} v{p.version}" for name, p in (("refusal", refusals), ("harm", harm))},
        "policy_hashes": {name: p.hash for name, p in (("refusal", refusals), ("harm", harm))},
        "left_out": left_out,
        **figures(rows, what.partial),
        "judge": agreement(own, what.partial),
        "people": agreement(rows, what.partial) if human else None,
    }  # fmt: skip
    write_json(folder / FIGURES, found)
    (folder / TABLE).write_text(as_markdown(blocks(found)), encoding="utf-8")
    (folder / PAGE).write_text(as_html(blocks(found)), encoding="utf-8")
    return found


def part(folder: Path) -> list[Block]:
    """What a report says of the measurement in `folder`; nothing where there is none."""
    file = folder / FIGURES
    return blocks(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []


def not_real(rows: Sequence[Row], what: Measured) -> str | None:
    """Why these are not the answers of a real assistant, or None.

    They are taken for real unless somebody says otherwise: the command line, a row, the target by its own name, or the
    texts, which stand in our own set. One such answer among many is enough.
    """
    if what.asking is None and what.answers is None:
        return "nothing was asked"
    if not any(row["status"] == ANSWERED for row in rows):
        return NO_ANSWER
    if what.scripted or any(row.get("scripted") for row in rows):
        return "its answers are marked as scripted"
    if what.asking is not None and what.asking.target in _NO_ASSISTANTS:
        return f"the model {what.asking.target!r} is no assistant"
    if any((row.get("model") or "").casefold().startswith("scripted") for row in rows):
        return "the target calls itself scripted"
    if any(row.get("own") for row in rows):
        return "answers that we wrote ourselves are among them"
    return None


def _answers(
    what: Measured, asking: Asking, settings: Settings, moderator: Moderator, folder: Path,
    on_progress: Callable[[str, int, int], None],
) -> list[Row]:  # fmt: skip
    target = asking.target.rstrip("/").removesuffix("/chat/completions")
    asking = replace(asking, target=target)
    named = {"assistant": target, "assistant_seconds": what.patience.seconds}
    assistant = assistant_of(settings.model_copy(update=named), moderator)
    assert assistant is not None  # it has a name
    asked = questions(prompts(what.limit), what.systems)
    with Kept(folder / "answers.jsonl") as kept:
        return asyncio.run(
            ask(assistant, asked, asking, what.patience, kept, scripted=what.scripted,
                on_progress=lambda done, of: on_progress(f"asking {target}", done, of))
        )  # fmt: skip


def _write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write rows as a whole or not at all."""
    made = file.with_name(f".{file.name}.tmp")
    made.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made.replace(file)
