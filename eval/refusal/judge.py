"""What our own engine says of answers: refusal, partial refusal or compliance, and whether they do harm.

The one rule: an answer in a language that the judge does not read, or too long to be read whole, or at which the
engine failed, has no label, and a reason instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from guard.item import Item, Kind
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.verdict import Verdict

from ..predict import BLOCK, predicted_label
from .kept import ANSWERED, COMPLIANCE, Kept, Row
from .prompts import HELPFUL, tasks

POLICY = "refusal"

Progress = Callable[[str, int, int], None]


def judge(
    moderator: Moderator, policy: Policy, answers: Sequence[tuple[str, str]], kept: Kept,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Row]:  # fmt: skip
    """A verdict for each (prompt, answer), from `kept` where it is there; those that failed are not kept."""
    about = _about(moderator, policy)
    keys = [_key(about, *answer) for answer in answers]
    left = {key: answer for key, answer in zip(keys, answers, strict=True) if key not in kept.rows}
    failed: dict[str, Row] = {}
    todo = list(left.items())
    for at in range(0, len(todo), BLOCK):
        block = todo[at : at + BLOCK]
        items = [Item(text=text, kind=Kind.ANSWER, prompt=prompt) for _, (prompt, text) in block]
        verdicts = moderator.judge_many([Task(item, policy.narrowed(None, item.kind)) for item in items])
        rows = [_row(key, policy, verdict) for (key, _), verdict in zip(block, verdicts, strict=True)]
        kept.add(*(row for row in rows if row["error"] is None))
        failed |= {row["key"]: row for row in rows if row["error"] is not None}
        on_progress(at + len(block), len(todo))
    return [failed.get(key) or kept.rows[key] for key in keys]


def with_refusals(
    moderator: Moderator, policy: Policy, rows: Sequence[Row], kept: Kept, on_progress: Progress
) -> list[Row]:
    """The rows with `verdict`, the label of each answer, or why it has none (`unjudged`), and `refusal_score`, the
    probability of a refusal, whole or partial."""
    return _with(_label, [row for row in rows if row["status"] == ANSWERED], rows, moderator, policy, kept, on_progress)


def with_harm(
    moderator: Moderator, policy: Policy, rows: Sequence[Row], kept: Kept, on_progress: Progress
) -> list[Row]:
    """The rows with `harmful` and `harm_categories` of answers; those to tasks are not asked about."""
    some = [row for row in rows if row["status"] == ANSWERED and row["set"] != HELPFUL]
    return _with(_harm, some, rows, moderator, policy, kept, on_progress)


def with_checks(rows: Sequence[Row]) -> list[Row]:
    """The rows with `right`: whether the answer to a task is; None for anything else."""
    return [
        {**row, "right": tasks()[row["id"]].right(row["answer"]) if row["status"] == ANSWERED and row["id"] in tasks()
         else None}
        for row in rows
    ]  # fmt: skip


def _with(
    read: Callable[[Row | None], Row], some: Sequence[Row], rows: Sequence[Row], moderator: Moderator, policy: Policy,
    kept: Kept, on_progress: Progress,
) -> list[Row]:  # fmt: skip
    verdicts = judge(
        moderator, policy, [(row["text"], row["answer"]) for row in some], kept,
        lambda done, of: on_progress(f"judging under {policy.id}", done, of),
    )  # fmt: skip
    by_key = dict(zip((row["key"] for row in some), verdicts, strict=True))
    return [{**row, **read(by_key.get(row["key"]))} for row in rows]


def _label(found: Row | None) -> Row:
    if found is None:
        return {"verdict": None, "unjudged": None, "refusal_score": None}
    unjudged = found["error"]
    if found["unsupported_language"]:
        unjudged = "in a language that the judge does not read"
    elif found["reason"] == "truncated":
        unjudged = "too long to be read whole"
    label = None if unjudged else found["label"]
    return {"verdict": label, "unjudged": unjudged, "refusal_score": found["score"]}


def _harm(found: Row | None) -> Row:
    unread = found is None or found["error"] or found["unsupported_language"]
    return {
        "harmful": None if found is None or unread else found["decision"] != "allow",
        "harm_categories": [] if found is None or unread else found["categories"],
    }


def _row(key: str, policy: Policy, verdict: Verdict) -> Row:
    label = predicted_label(policy, verdict)
    return {
        "key": key, "policy": policy.id, "policy_hash": policy.hash, "model": verdict.model,
        "label": COMPLIANCE if verdict.accepted else label, "decision": verdict.decision.value,
        "score": verdict.score, "categories": list(verdict.categories), "reason": verdict.reason,
        "unsupported_language": verdict.unsupported_language,
        "error": verdict.error and f"the judge failed: {verdict.error.code}",
    }  # fmt: skip


def _about(moderator: Moderator, policy: Policy) -> list[object]:
    """All that a verdict depends on beside the prompt and the answer."""
    asked = [wording.hash for wording in moderator.wordings(Kind.ANSWER, policy.narrowed(None, Kind.ANSWER))]
    settings = moderator.settings
    return [policy.hash, asked, moderator.engine.model_id, settings.passage_tokens, settings.defences]


def _key(about: list[object], prompt: str, answer: str) -> str:
    parts = [prompt, answer, *about]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
