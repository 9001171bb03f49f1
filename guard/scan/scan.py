"""Judge every row of a file: read a block → judge → write → count.

The one rule: every row of the input has one row in the output, in its order. What has no verdict has the decision
`error` there, and its text stands in `<output>.errors.jsonl`. Blocks depend on the input alone, not on time or load,
so a scan repeats.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from guard.errors import EngineError, GuardError, InvalidFile
from guard.item import Item, Kind
from guard.moderator import Moderator, Task
from guard.policy import Policy
from guard.scan.readers import Reader, Row, open_reader
from guard.scan.writers import ErrorsWriter, open_writer, record
from guard.verdict import Decision, Verdict

BLOCK_ROWS = 256  # judged together: at 30 rows a second, progress is news every 8 seconds
BLOCK_CHARACTERS = 4 * 2**20  # a block of very long texts has fewer rows
SHOWN = 100  # flagged rows that a summary keeps
_BEGINNING = 200  # characters of their text

OnProgress = Callable[[int, float], None]  # rows done, share of the file done


class Flagged(NamedTuple):
    """A row that may not pass, for people to look at."""

    score: float
    id: str
    decision: Decision
    categories: tuple[str, ...]
    text: str  # its beginning


@dataclass(frozen=True)
class Summary:
    """What a scan found. `flagged` holds the rows with the highest scores, at most `SHOWN`, highest first."""

    rows: int
    decisions: dict[str, int]
    categories: dict[str, int]
    seconds: float
    flagged: tuple[Flagged, ...]
    errors_file: Path

    @property
    def errors(self) -> int:
        """Rows without a verdict; they stand in `errors_file`."""
        return self.decisions.get(Decision.ERROR.value, 0)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def scan(
    moderator: Moderator, source: Path, output: Path, *, text_column: str = "text", id_column: str | None = None,
    policy: str | Policy | None = None, categories: Iterable[str] | None = None, kind: Kind | str | None = None,
    on_progress: OnProgress | None = None,
) -> Summary:  # fmt: skip
    """Judge the rows of `source` and write the verdicts to `output`. Raises `InvalidFile` and `UnknownPolicy`.

    Without `id_column` the number of the row, from 1, is its id.
    """
    check(source, output, text_column, id_column)
    started = time.monotonic()
    reader = open_reader(source, text_column, id_column)
    example = moderator.task("example", policy=policy, categories=categories, kind=kind)  # resolves the names, once
    tally = _Tally()
    with open_writer(output) as verdicts, ErrorsWriter(errors_file(output)) as errors:
        for rows in _blocks(reader):
            judged = list(zip(rows, _judge(moderator, rows, example), strict=True))
            verdicts.write([record(row.id, verdict) for row, verdict in judged])
            errors.write([_error_record(row, verdict) for row, verdict in judged if verdict.error])
            tally.add(judged)
            if on_progress:
                on_progress(tally.rows, reader.share)
    return tally.summary(time.monotonic() - started, errors_file(output))


def check(source: Path, output: Path, text_column: str, id_column: str | None = None) -> None:
    """Can these files be scanned so? Raises `InvalidFile`; cheap, so it can be asked before a model is loaded."""
    open_reader(source, text_column, id_column).check()
    open_writer(output)
    for written in (output, errors_file(output)):
        if written.exists() and written.samefile(source):
            raise InvalidFile(f"{source}: the scan would overwrite its own input.", hint="Name another output.")


def errors_file(output: Path) -> Path:
    """The side file for the rows without a verdict."""
    return output.with_name(f"{output.name}.errors.jsonl")


def _blocks(rows: Reader) -> Iterator[list[Row]]:
    block: list[Row] = []
    characters = 0
    for row in rows:
        block.append(row)
        characters += len(row.text)
        if len(block) == BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _judge(moderator: Moderator, rows: Sequence[Row], example: Task) -> list[Verdict]:
    """A verdict per row. Rows with the same text share one: they are judged once."""
    kind, policy = example.item.kind, example.policy
    tasks: dict[str, Task] = {}
    verdicts: dict[str, Verdict] = {}
    for row in rows:
        if row.error is None and row.text not in tasks:
            try:
                tasks[row.text] = Task(Item(text=row.text, kind=kind), policy)
            except GuardError as error:
                verdicts[row.text] = moderator.failed(policy, error)
    verdicts.update(zip(tasks, _judge_tasks(moderator, list(tasks.values())), strict=True))
    return [moderator.failed(policy, row.error) if row.error else verdicts[row.text] for row in rows]


def _judge_tasks(moderator: Moderator, tasks: list[Task]) -> list[Verdict]:
    """`judge_many`; should it raise, each task is tried alone, so that one cannot take the others with it."""
    try:
        return moderator.judge_many(tasks)
    except Exception as cause:
        if len(tasks) > 1:
            return [verdict for task in tasks for verdict in _judge_tasks(moderator, [task])]
        error = (
            cause if isinstance(cause, GuardError) else EngineError(f"Judging failed: {type(cause).__name__}.")
        )  # a foreign message may quote the text
        return [moderator.failed(task.policy, error) for task in tasks]


def _error_record(row: Row, verdict: Verdict) -> dict[str, object]:
    assert verdict.error  # the caller has chosen the rows that have one
    return {
        "id": row.id, "row": row.number, "code": verdict.error.code, "message": verdict.error.message, "text": row.text,
    }  # fmt: skip


class _Tally:
    """Counts, and the flagged rows with the highest scores; what it holds does not grow with the file."""

    def __init__(self) -> None:
        self.rows = 0
        self._decisions: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._flagged: list[tuple[float, int, Flagged]] = []  # a heap; of equal scores the earlier row stays

    def add(self, judged: Iterable[tuple[Row, Verdict]]) -> None:
        for row, verdict in judged:
            self.rows += 1
            self._decisions[verdict.decision.value] += 1
            self._categories.update(verdict.categories)
            if not verdict.accepted and verdict.error is None:
                score = verdict.score or 0.0
                flagged = Flagged(score, row.id, verdict.decision, verdict.categories, row.text[:_BEGINNING])
                heapq.heappush(self._flagged, (score, -row.number, flagged))
                if len(self._flagged) > SHOWN:
                    heapq.heappop(self._flagged)

    def summary(self, seconds: float, errors: Path) -> Summary:
        return Summary(
            rows=self.rows,
            decisions=dict(self._decisions.most_common()),
            categories=dict(self._categories.most_common()),
            seconds=seconds,
            flagged=tuple(flagged for _, _, flagged in sorted(self._flagged, reverse=True)),
            errors_file=errors,
        )
