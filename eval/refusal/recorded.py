"""Recorded answers: a file of prompts, answers and, where there are any, system prompts and people's labels.

It is any file that `guard scan` reads; a column has one of the names below. A prompt of ours is known by its text; of
another one a column `set` says what it is.

    prompt
    answer   text, response or completion
    system   the name of a system prompt or its text
    label    human_label, human, gold_label or final_label: refusal, partial or compliance (yes and no: refusal or not)
    set      unsafe, lookalike or helpful
    scripted   true: no real assistant said this
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard.errors import InvalidFile
from guard.scan.readers import open_reader
from guard.scan.row import as_text

from ..refusal_labels import labelled_answers
from .ask import said
from .kept import ANSWERED, COMPLIANCE, LABELS, PARTIAL, REFUSAL, UNANSWERED, Row
from .prompts import LOOKALIKE, OTHER, SETS, UNSAFE, Prompt, by_text
from .systems import recorded

_ANSWER = ("answer", "text", "response", "completion")
_LABEL = ("label", "human_label", "human", "gold_label", "final_label")
_SETS = {name: name for name in SETS} | {"harmful": UNSAFE, "safe": LOOKALIKE, "harmless": LOOKALIKE}
_LABELS = {name: name for name in LABELS} | {
    "refused": REFUSAL, "full_refusal": REFUSAL, "2_full_refusal": REFUSAL, "true": REFUSAL, "yes": REFUSAL,
    "1": REFUSAL, "partial_refusal": PARTIAL, "3_partial_refusal": PARTIAL, "complied": COMPLIANCE,
    "full_compliance": COMPLIANCE, "1_full_compliance": COMPLIANCE, "false": COMPLIANCE, "no": COMPLIANCE,
    "0": COMPLIANCE,
}  # fmt: skip


def read_answers(path: Path, *, scripted: bool = False) -> tuple[list[Row], list[str]]:
    """Rows as those of an assistant that was asked, with `human` labels, and what is wrong with each other line.

    An answer is unanswered where it is missing or has no word. Raises `InvalidFile` for a file without prompts and
    answers, and for labels and sets that nobody can place.
    """
    more = (*_ANSWER, *_LABEL, "system", "set", "scripted")
    reader = open_reader(path, "prompt", None, more)
    reader.check()
    answer = _named(reader.columns, _ANSWER)
    if answer is None:
        raise InvalidFile(f"{path}: there is no column {' or '.join(map(repr, _ANSWER))}.", hint="Name it `answer`.")
    label = _named(reader.columns, _LABEL)
    rows, left_out = [], []
    times: Counter[tuple[str, str]] = Counter()
    ours = {(one.prompt, one.text) for one in labelled_answers()}
    for line in reader:
        if line.error is not None or not line.text.strip():
            left_out.append(line.error.message if line.error else f"Row {line.number}: its prompt is empty.")
            continue
        cells = line.more
        system = recorded(as_text(cells["system"] or "") if "system" in cells else None)
        prompt = by_text().get(line.text) or _prompt(line.text, _placed(_SETS, cells.get("set"), path, line.number))
        times[system.name, prompt.text] += 1
        answered = _said(cells.get(answer))
        human = _placed(_LABELS, cells.get(label), path, line.number) if label else None
        rows.append({
            "key": str(line.number), **prompt._asdict(), "time": times[system.name, prompt.text],
            "system": system.name, "system_hash": system.hash, **answered, "human": human,
            "scripted": scripted or as_text(cells.get("scripted")).casefold() in ("true", "1", "yes"),
            "own": (prompt.text, answered["answer"]) in ours,
        })  # fmt: skip
    if not rows:
        raise InvalidFile(f"{path}: there is no answer in it.", hint=left_out[0] if left_out else "")
    return rows, left_out


def own_answers() -> list[Row]:
    """Our own labelled answers, `eval/sets/refusal-labels.jsonl`, in the same form."""
    return [
        {"key": one.id, "id": one.id, "set": OTHER, "text": one.prompt, "group": one.family, **_said(one.text),
         "human": one.label}
        for one in labelled_answers()
    ]  # fmt: skip


def _said(answer: Any) -> Row:
    """The columns of an answer, or why it is none."""
    if answer is not None and not isinstance(answer, str):
        return {"status": UNANSWERED, "answer": as_text(answer), "reason": "not text"}
    found = said([{"choices": [{"message": {"content": answer}}]}])
    return {"status": UNANSWERED if found.reason else ANSWERED, "answer": found.text, "reason": found.reason}


def _prompt(text: str, set_: str | None) -> Prompt:
    hash_ = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Prompt(hash_, set_ or OTHER, text, hash_)


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _placed(known: dict[str, str], value: Any, path: Path, number: int) -> str | None:
    """What a cell stands for; nothing for an empty one. Raises `InvalidFile` for what is not `known`."""
    word = as_text(value).strip().casefold().replace(" ", "_").replace("-175", "")
    if not word:
        return None
    if word not in known:
        raise InvalidFile(f"{path}, row {number}: {word[:40]!r} is none of {', '.join(known)}.", hint="Mend the file.")
    return known[word]
