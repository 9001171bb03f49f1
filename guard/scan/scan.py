"""Judge every row of an input: read → prepare → score → commit, and at the end the output of what was committed.

The one rule: every row of the input has one row in the output, in its order, once, whatever happens on the way. What
has no verdict has the decision `error` there, and its text stands in `<output>.errors.jsonl`.

Reading and tokenising, the engine, and writing work at the same time, in a thread each. Only the ledger remembers: a
scan that is started again finds there how far it was, and asks from there on what it would have asked.
"""

from __future__ import annotations

import heapq
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from guard.errors import InvalidFile
from guard.moderator import Moderator
from guard.scan.ahead import ahead
from guard.scan.blocks import WINDOW, Block, blocks
from guard.scan.job import Job
from guard.scan.judge import Judge, Prepared, Scored
from guard.scan.ledger import Entry, Ledger, Record, commit
from guard.scan.row import unfinished
from guard.scan.store import open_store
from guard.scan.writers import STDOUT, errors_file, size_of, write_output
from guard.verdict import Decision

_BEGINNING = 200  # characters of a flagged row's text
_AHEAD = 2  # blocks that are prepared while one is scored
_STOPPING = {Decision.FLAG.value, Decision.REVIEW.value, Decision.BLOCK.value}


class Now(NamedTuple):
    """How far a scan is: rows judged, in earlier runs too, share of the input, rows flagged and without a verdict."""

    rows: int
    share: float
    flagged: int
    errors: int


OnProgress = Callable[[Now], None]


class Flagged(NamedTuple):
    """A row that may not pass, for people to look at."""

    score: float
    id: str
    decision: str
    categories: tuple[str, ...]
    text: str  # its beginning


@dataclass(frozen=True)
class Summary:
    """What a scan found, and what this run did of it. `flagged` are the rows with the highest scores, highest first."""

    rows: int
    decisions: dict[str, int]
    categories: dict[str, int]
    judged: int  # rows of this run
    seconds: float  # of this run
    errors_file: str
    flagged: tuple[Flagged, ...]

    @property
    def errors(self) -> int:
        """Rows without a verdict; they stand in `errors_file`."""
        return self.decisions.get(Decision.ERROR.value, 0)

    @property
    def rows_per_second(self) -> float:
        return self.judged / self.seconds if self.seconds else 0.0


def scan(
    moderator: Moderator, job: Job, *, restart: bool = False, retry_errors: bool = False,
    show: int = 0, on_progress: OnProgress | None = None,
) -> Summary:  # fmt: skip
    """Do a job, or what is left of it. `restart` throws away what earlier runs found, `retry_errors` asks again about
    the rows that they found no verdict for; the summary has the `show` worst rows.

    Raises `InvalidFile` and what judging under the policy raises.
    """
    job.check()
    started = time.monotonic()
    with opened(job, job.key(moderator), restart) as ledger:
        run = _Here(moderator, job, ledger, on_progress)
        if retry_errors:
            run.again()
        run.rest()
        return run.finish(started, show)


@contextmanager
def opened(job: Job, key: Mapping[str, Any], restart: bool) -> Iterator[Ledger]:
    """The job's ledger, ours alone; of a job that could not go on anyway, a passing one."""
    with ExitStack() as stack:
        place = job.place
        if not job.resumable:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="guard-scan-"))
        store = open_store(place)
        stack.enter_context(store.alone())
        yield Ledger(store, key, restart)


class Run:
    """One run over what the ledger does not have, wherever it is judged: how far it is, and its end."""

    def __init__(self, job: Job, ledger: Ledger, on_progress: OnProgress | None) -> None:
        self.judged = 0
        self._job, self._ledger = job, ledger
        self._on_progress = on_progress or (lambda now: None)
        self._now = Now(0, 0.0, 0, 0)
        for entry in ledger.entries:
            self._count(entry)

    def finish(self, started: float, show: int) -> Summary:
        """Make the output; what was found since `started`, with the `show` worst rows."""
        if self._job.output != STDOUT:
            _output(self._job, self._ledger)
        return Summary(
            rows=sum(entry.rows for entry in self._ledger.entries),
            decisions=self._ledger.tally("decisions"),
            categories=self._ledger.tally("categories"),
            judged=self.judged,
            seconds=time.monotonic() - started,
            errors_file=errors_file(self._job.output),
            flagged=tuple(_worst(self._ledger, show)),
        )

    def _complete(self) -> bool:
        """Has the whole input been judged? If it has grown since, its last block is forgotten."""
        entries = self._ledger.entries
        if not entries or not entries[-1].last:
            return False
        if unfinished(entries[-1].end):  # its last line may have grown, too: only reading the block again can tell
            before = entries[-2].mark if len(entries) > 1 else None
            with closing(blocks(self._job.reader(), self._job.columns, entries[-1].block, before)) as again:
                block = next(again, None)
            complete = block is not None and block.last and block.digest == entries[-1].digest
        else:
            with closing(self._job.reader().rows(*entries[-1].mark)) as rows:
                complete = next(rows, None) is None
        if not complete:
            self._count(self._ledger.drop_last(), -1)
        return complete

    def _count(self, entry: Entry, times: int = 1) -> None:
        rows, share, flagged, errors = self._now
        stopped = sum(n for decision, n in entry.decisions.items() if decision in _STOPPING)
        self._now = Now(rows + times * entry.rows, share, flagged + times * stopped, errors + times * entry.errors)


class _Here(Run):
    """Judged in this process."""

    def __init__(self, moderator: Moderator, job: Job, ledger: Ledger, on_progress: OnProgress | None) -> None:
        super().__init__(job, ledger, on_progress)
        self._new_judge = partial(Judge, moderator, job.policy, job.kind, job.keep_text)

    def rest(self) -> None:
        """Judge all blocks that are missing."""
        if self._complete():
            return
        judge = self._new_judge()
        done = len(self._ledger.entries)

        def missing() -> Iterator[Prepared]:
            for block in self._blocks(done):
                if block.number < done:
                    judge.recall(block, self._ledger.records(block.number))
                else:
                    yield judge.prepare(block)

        self._work(missing(), judge, self._commit)

    def again(self) -> None:
        """Judge anew the rows that have no verdict."""
        failed = [entry.block for entry in self._ledger.entries if entry.errors]
        if not failed:
            return
        judge = self._new_judge()

        def chosen() -> Iterator[Prepared]:
            for block in takewhile(lambda block: block.number <= failed[-1], self._blocks(failed[0])):
                if block.number in failed:
                    yield judge.prepare(unjudged(block, self._ledger.records(block.number)))

        self._work(chosen(), judge, self._mend)

    def _blocks(self, first: int) -> Iterator[Block]:
        """The blocks from `first` on, and the `WINDOW` before it. Raises `InvalidFile` where they are not the blocks
        that the ledger knows."""
        known = self._ledger.entries
        begin = max(0, first - WINDOW)
        number = begin - 1
        for block in blocks(self._job.reader(), self._job.columns, begin, known[begin - 1].mark if begin else None):
            number = block.number
            if number < len(known) and block.digest != known[number].digest:
                break
            yield block
        if number < len(known) - 1:
            raise InvalidFile(
                f"The input is not the one that this scan began with: block {number} differs.",
                hint="Restore it, name another output, or judge everything again with --restart.",
            )

    def _work(self, prepared: Iterator[Prepared], judge: Judge, finish: Callable[[Judge, Scored], None]) -> None:
        """Score what is prepared in another thread, and have it finished in a third."""
        finishing: Future[None] | None = None
        self._on_progress(self._now)
        with ThreadPoolExecutor(1, "guard-scan-write") as writer, closing(ahead(prepared, _AHEAD)) as coming:
            for one in coming:
                scored = judge.score(one, partial(self._tell, one.block))
                if finishing:
                    finishing.result()
                finishing = writer.submit(finish, judge, scored)
            if finishing:
                finishing.result()
        self._on_progress(self._now)

    def _commit(self, judge: Judge, scored: Scored) -> None:
        block = scored.prepared.block
        entry = commit(self._ledger.store, block, *judge.records(scored))
        self._ledger.add(entry)
        self.judged += entry.rows
        self._count(entry)
        self._now = self._now._replace(share=block.share)
        if self._job.output == STDOUT:
            sys.stdout.buffer.writelines(self._ledger.lines(block.number)[0])
            sys.stdout.buffer.flush()

    def _mend(self, judge: Judge, scored: Scored) -> None:
        """Put new verdicts in the place of errors."""
        block = scored.prepared.block
        found, errors = judge.records(scored)
        records = mended(self._ledger.records(block.number), found)
        entry = commit(self._ledger.store, block, records, errors)
        self._count(self._ledger.entries[block.number], -1)
        self._ledger.add(entry)
        self.judged += len(found)
        self._count(entry)

    def _tell(self, block: Block, share: float) -> None:
        """Say how far the run is: `share` of this block is scored, and the one before may not be committed yet."""
        now = self._now
        self._on_progress(
            now._replace(
                rows=block.comments[0].number - 1 + round(share * len(block.comments)),
                share=max(now.share, now.share + share * (block.share - now.share)),
            )
        )


def _output(job: Job, ledger: Ledger) -> None:
    """Make the output, unless it is there and made of these blocks."""
    finished = ledger.finished()
    if finished and finished["blocks"] == ledger.sum and finished["bytes"] == size_of(job.output):
        return
    made = write_output(
        (ledger.lines(entry.block)[0] for entry in ledger.entries),
        (ledger.lines(entry.block)[1] for entry in ledger.entries if entry.errors),
        job.output,
        job.output_columns,
    )
    ledger.finish({**made, "blocks": ledger.sum})


def _worst(ledger: Ledger, most: int) -> list[Flagged]:
    """The flagged rows with the highest scores; of equal scores the earlier row stays."""
    stopped = (
        one for entry in ledger.entries if most for one in ledger.records(entry.block) if one["decision"] in _STOPPING
    )
    worst = heapq.nlargest(most, stopped, key=lambda one: float(one["score"]))  # stable
    return [
        Flagged(
            one["score"], one["id"], one["decision"], tuple(one["categories"]), (one.get("text") or "")[:_BEGINNING]
        )
        for one in worst
    ]


def unjudged(block: Block, there: Sequence[Record]) -> Block:
    """A block's comments that have no verdict yet in the records that are `there`."""
    pairs = zip(block.comments, there, strict=True)
    return block._replace(comments=[comment for comment, one in pairs if _is_error(one)])


def mended(there: Sequence[Record], found: Sequence[Record]) -> list[Record]:
    """The records that are `there`, with those `found` in the place of errors."""
    new = iter(found)
    return [next(new) if _is_error(one) else one for one in there]


def _is_error(record: Record) -> bool:
    return bool(record["decision"] == Decision.ERROR)
