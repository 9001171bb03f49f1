"""From labelled items to predictions: one Parquet file per set, policy and model, one row per item.

The items go through `Moderator.judge_many`, as everything that is served does. Each block of verdicts is appended to a
journal beside the file and flushed to the disk, so that a run that is killed goes on where it was; the journal's first
line says which set, policy, wording and model it belongs to, and one of another is not gone on with.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from guard.errors import InvalidFile
from guard.item import Kind
from guard.labelled import ACCEPTABLE, Labelled, LabelledSet
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.verdict import Verdict

from .slices import slices_of

BLOCK = 256  # items judged between two lines of progress
ERROR = "error"
SCHEMA: dict[str, Any] = {
    "set": pl.String, "set_hash": pl.String, "id": pl.String, "text_hash": pl.String, "kind": pl.String,
    "group": pl.String, "slices": pl.List(pl.String), "gold_label": pl.String, "harmful": pl.Boolean,
    "score": pl.Float64, "category_scores": pl.String, "decision": pl.String, "categories": pl.List(pl.String),
    "predicted_label": pl.String, "reason": pl.String, "truncated": pl.Boolean, "unsupported_language": pl.Boolean,
    "policy": pl.String, "policy_version": pl.Int64, "policy_hash": pl.String, "prompt_hash": pl.String,
    "model": pl.String, "error": pl.String,
}  # fmt: skip

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One set under one policy with one model, judged: where its rows are and what it took.

    `seconds` were spent on `judged` items in all runs that it took; `out_of_scope` items are of a kind that the policy
    does not speak about, `skipped` rows of the set's file could not be read.
    """

    set: str
    set_hash: str
    source: str
    policy: str
    policy_version: int
    policy_hash: str
    parents: Mapping[str, str | None]
    model: str
    defences: tuple[str, ...]
    file: str
    items: int
    out_of_scope: int
    skipped: int
    seconds: float
    judged: int


def predict(
    moderator: Moderator, labelled: LabelledSet, policy: Policy, folder: Path, *, source: str,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Cell:  # fmt: skip
    """Judge a set under a policy, or what is left of it, and write `folder`/SET.POLICY.MODEL.parquet.

    Raises `InvalidFile` where the set's labels mean nothing under the policy.
    """
    model = moderator.engine.model_id
    gold = labelled.gold(policy)
    groups = labelled.groups()
    inside = [index for index, one in enumerate(labelled.items) if in_scope(one.item.kind, policy)]
    defences = moderator.settings.defences
    header = {
        "set_hash": labelled.hash, "policy_hash": policy.hash, "model": model, "defences": list(defences),
        "prompts": _prompts(moderator, policy, {labelled.items[index].item.kind for index in inside}),
        "items": len(inside),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{policy.id}-v{policy.version}-{policy.hash[:8]}"
    file = folder / f"{_slug(labelled.name)}.{_slug(version)}.{_slug(model)}.parquet"
    journal = file.with_suffix(".journal.jsonl")

    done = finished(file, header)
    if done is None:
        with _Journal(journal, header) as lines:
            left = [index for index in inside if labelled.items[index].id not in lines.records]
            on_progress(len(inside) - len(left), len(inside))
            for at in range(0, len(left), BLOCK):
                block = left[at : at + BLOCK]
                began = time.perf_counter()
                verdicts = moderator.judge_many(
                    [Task((item := labelled.items[i].item), policy.narrowed(None, item.kind)) for i in block]
                )
                seconds = time.perf_counter() - began
                records = [
                    _record(labelled, labelled.items[i], gold[i], groups[i], policy, verdict)
                    for i, verdict in zip(block, verdicts, strict=True)
                ]
                lines.append(records, seconds)
                on_progress(len(inside) - len(left) + at + len(block), len(inside))
            done = {"seconds": lines.seconds, "judged": lines.judged}
            _write(file, [lines.records[labelled.items[index].id] for index in inside], {**header, **done})
        journal.unlink()
    return Cell(
        labelled.name, labelled.hash, source, policy.id, policy.version, policy.hash,
        {category.id: category.parent for category in policy.categories}, model, defences, file.name, len(inside),
        len(labelled.items) - len(inside), len(labelled.skipped), round(done["seconds"], 3), int(done["judged"]),
    )  # fmt: skip


def in_scope(kind: Kind, policy: Policy) -> bool:
    """Whether a policy speaks about items of this kind."""
    return kind in policy.kinds and any(kind in category.kinds for category in policy.categories)


def _prompts(moderator: Moderator, policy: Policy, kinds: set[Kind]) -> dict[str, list[str]]:
    """Hashes of what the items of each kind are asked with: under another wording nothing is gone on with."""
    return {
        kind.value: [prompt.hash for prompt in moderator.wordings(kind, policy.narrowed(None, kind))]
        for kind in sorted(kinds)
    }


def read(file: Path) -> pl.DataFrame:
    """The predictions of a file. Raises `InvalidFile`."""
    try:
        frame = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise InvalidFile(f"{file}: not a readable Parquet file.", hint="Name a file of predictions.") from cause
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise InvalidFile(
            f"{file}: no predictions: there is no column {missing[0]!r}.", hint="Run `python -m eval run`."
        )
    return frame


def require_match(frame: pl.DataFrame, labelled: LabelledSet) -> None:
    """Refuse predictions of other texts or other labels than the set's, by hash. Raises `InvalidFile`."""
    if set(frame["set_hash"]) <= {labelled.hash}:
        return
    known = {one.id: one.text_hash for one in labelled.items}
    strange = [id_ for id_, hash_ in frame.select("id", "text_hash").iter_rows() if known.get(id_) != hash_]
    what = f"{len(strange)} items have another text, such as {strange[0]!r}" if strange else "its labels have changed"
    raise InvalidFile(
        f"The predictions do not match the set {labelled.name!r}: {what}.", hint="Run `python -m eval run` again."
    )


def finished(file: Path, header: Mapping[str, Any]) -> dict[str, float] | None:
    """What an earlier run took, if `file` holds its predictions for just this set, policy and model."""
    try:
        found: dict[str, Any] = json.loads(pl.read_parquet_metadata(file).get("guard", "{}"))
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None
    return found if all(found.get(name) == value for name, value in header.items()) else None


class _Journal:
    """Verdicts so far, one line each; a torn last line is the one that was being written when the run was killed."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.records: dict[str, Record] = {}
        self.seconds, self.judged = 0.0, 0
        whole = list(self._read(path))
        if not whole or whole[0] != header:
            whole = [dict(header)]
        for line in whole[1:]:
            if "seconds" in line:
                self.seconds, self.judged = self.seconds + line["seconds"], self.judged + line["judged"]
            else:
                self.records[line["id"]] = line
        self._file = path.with_suffix(".tmp").open("w", encoding="utf-8")
        self._put(whole)
        path.with_suffix(".tmp").replace(path)

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, records: Sequence[Record], seconds: float) -> None:
        self.seconds, self.judged = self.seconds + seconds, self.judged + len(records)
        self.records |= {record["id"]: record for record in records}
        self._put([*records, {"seconds": seconds, "judged": len(records)}])

    def _put(self, lines: Sequence[Record]) -> None:
        self._file.writelines(json.dumps(line) + "\n" for line in lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    @staticmethod
    def _read(path: Path) -> Iterator[Record]:
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)


def _record(labelled: LabelledSet, one: Labelled, gold: str, group: str, policy: Policy, verdict: Verdict) -> Record:
    shares = {name: round(share, 6) for name, share in verdict.category_scores.items()}
    return {
        "set": labelled.name, "set_hash": labelled.hash, "id": one.id, "text_hash": one.text_hash,
        "kind": one.item.kind.value, "group": group, "slices": list(slices_of(one)), "gold_label": gold,
        "harmful": gold != ACCEPTABLE, "score": verdict.score, "category_scores": json.dumps(shares),
        "decision": verdict.decision.value, "categories": list(verdict.categories),
        "predicted_label": predicted_label(policy, verdict), "reason": verdict.reason, "truncated": verdict.truncated,
        "unsupported_language": verdict.unsupported_language, "policy": policy.id, "policy_version": policy.version,
        "policy_hash": policy.hash, "prompt_hash": verdict.prompt_hash, "model": verdict.model,
        "error": verdict.error and f"{verdict.error.code}: {verdict.error.message}",
    }  # fmt: skip


def predicted_label(policy: Policy, verdict: Verdict) -> str:
    """The one label that an item was given: `acceptable`, `error`, or the likeliest category by its own probability.

    A parent's score holds its children's, so what is compared is what is left of it without them.
    """
    if verdict.error or verdict.accepted:
        return ERROR if verdict.error else ACCEPTABLE
    scores = verdict.category_scores

    def own(id_: str) -> float:
        return scores.get(id_, 0.0) - sum(scores.get(c.id, 0.0) for c in policy.categories if c.parent == id_)

    return max((category.id for category in policy.categories), key=own) if scores else "unacceptable"


def _write(file: Path, records: Sequence[Record], header: Mapping[str, Any]) -> None:
    made = file.with_suffix(".tmp")
    frame = pl.DataFrame(list(records), schema=SCHEMA, orient="row")
    frame.write_parquet(made, metadata={"guard": json.dumps(header)})
    made.replace(file)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_@+-]+", "-", name)
