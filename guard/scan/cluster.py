"""A scan on a Ray cluster: read → judge → write as stages of Ray Data, between machines that share input and ledger.

The one rule: a block depends on the input alone and its file appears at once, so that doing it twice, as Ray may after
a machine was lost, is doing it once. Here the input is cut, without judging anything, and it is settled which blocks
are missing; where, when and how often they are judged is Ray's business.

Each block is judged alone, while a scan in one process asks only once about a text that stands in several blocks. The
result is the same because an engine's scores do not depend on what else is asked: byte for byte on equal machines,
within the rounding of their kernels on others. The ledger is the same, too: a scan that was begun here can be finished
on a cluster, and the other way round.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from guard import __version__
from guard.errors import EngineError, GuardError, InvalidFile, InvalidRequest, InvalidSettings, NotOffered, NotReady
from guard.moderator import Moderator
from guard.scan.blocks import WINDOW, Block, Mark, blocks, cuts
from guard.scan.database import is_database
from guard.scan.job import Job
from guard.scan.judge import Judge
from guard.scan.ledger import Entry, Ledger, Record, begun, commit, records_of
from guard.scan.scan import OnProgress, Run, Summary, mended, opened, unjudged
from guard.scan.store import Store, open_store
from guard.scan.streams import is_url
from guard.settings import Settings

_SPANS = 16  # parts of the input at most: of each, what lies before it has to be hashed
_SPAN = 8  # blocks of a part at least
_READERS = 4  # parts that are read at the same time
_START_SECONDS = 900.0  # in which some machine must have loaded the model; a cluster may have to start one first

_KNOCK_SECONDS = 10.0


class Need(NamedTuple):
    """What a worker takes of its machine."""

    cores: int
    gpus: int


class Piece(NamedTuple):
    """A block as it was cut here: what there is to know of it without its rows."""

    number: int
    rows: int
    mark: Mark  # where it ends
    last: bool


class Span(NamedTuple):
    """A part of the input, read in one go from block number `first`, which begins behind `after`.

    Of its blocks those in `wanted` are judged; their digests are what they must have.
    """

    first: int
    after: Mark | None
    wanted: Mapping[int, str]
    failed: Collection[int]  # of the wanted, those that are there, with rows that have no verdict


@dataclass(frozen=True)
class Work:
    """What every machine must know. The job's paths are absolute."""

    job: Job
    settings: Settings
    key: Mapping[str, Any]

    def store(self) -> Store:
        """The ledger's place, as this machine sees it. Raises `InvalidFile` if it is another one."""
        store = open_store(self.job.place)
        if not begun(store, self.key):
            raise InvalidFile(f"{store.place}: this scan's ledger is not there.")
        return store


def scan_on(
    address: str, settings: Settings, job: Job, *, workers: int | None = None, restart: bool = False,
    retry_errors: bool = False, show: int = 0, on_progress: OnProgress | None = None,
) -> Summary:  # fmt: skip
    """Do a job, or what is left of it, on the Ray cluster at `address` (HOST:PORT, or "auto"); the rest is as of
    `scan`.

    The model is loaded there only, by as many workers as there is room for, or at most `workers`. Each takes a GPU, if
    the cluster has any, and as many cores as the setting `threads` says, or one.

    Raises `InvalidFile`, what loading the model and judging under the policy raise, `NotReady` for a cluster that does
    not answer, and `EngineError` where it failed. What was committed stays.
    """
    if not job.resumable:
        raise InvalidRequest("A cluster has neither standard input nor output.", hint="Name files that it can see.")
    if "://" in address:
        raise InvalidRequest(
            f"{address}: not the address of a cluster.", hint='Name HOST:PORT or, on one of its machines, "auto".'
        )
    job.check()
    started = time.monotonic()
    settings = _everywhere_settings(settings)
    there = _everywhere(job)
    with _connected(address) as gpus:
        need = Need(settings.threads, gpus)
        key = _key(there, settings, need)
        with opened(job, key, restart) as ledger:
            run = _There(job, Work(there, settings, key), ledger, on_progress)
            run.rest(need, workers, retry_errors)
            return run.finish(started, show)


class _There(Run):
    """Judged on the cluster."""

    def __init__(self, job: Job, work: Work, ledger: Ledger, on_progress: OnProgress | None) -> None:
        super().__init__(job, ledger, on_progress)
        self._work = work
        self._early: dict[int, Entry] = {}  # committed, but not all before it

    def rest(self, need: Need, workers: int | None, retry_errors: bool) -> None:
        """Have all blocks judged that are missing and, if wanted, those with rows that have no verdict."""
        pieces = [] if self._complete() else self._pieces()
        if pieces:
            self._take_early(pieces)
        there = [*self._ledger.entries, *self._early.values()]
        failed = {entry.block for entry in there if entry.errors} if retry_errors else set()
        total = sum(entry.rows for entry in self._ledger.entries) + sum(piece.rows for piece in pieces)
        spans = self._spans(pieces, failed)
        self._now = self._now._replace(share=self._now.rows / total if total else 1.0)
        self._on_progress(self._now)
        for entry in _judged(spans, self._work, need, workers) if spans else ():
            before = self._there(entry.block)
            if before:
                self._count(before, -1)
            self._count(entry)
            self.judged += before.errors if before else entry.rows
            self._add(entry)
            self._now = self._now._replace(share=self._now.rows / total)
            self._on_progress(self._now)
        missing = len(pieces) and pieces[-1].number + 1 - len(self._ledger.entries)
        if missing:
            raise EngineError(f"The cluster left out {missing} blocks.", hint="The same command goes on.")

    def _pieces(self) -> list[Piece]:
        """The blocks behind those of the ledger."""
        entries = self._ledger.entries
        after = entries[-1].mark if entries else None
        with closing(cuts(self._job.reader(), len(entries), after)) as found:
            return [Piece(cut.number, len(cut.rows), Mark(cut.end, cut.digest), cut.last) for cut in found]

    def _take_early(self, pieces: Sequence[Piece]) -> None:
        """Count what a run that was stopped has committed behind a gap."""
        known = {piece.number: piece for piece in pieces}
        for entry in self._ledger.scattered():
            piece = known.get(entry.block)
            if piece and (piece.mark.digest, piece.last) == (entry.digest, entry.last):
                self._count(entry)
                self._add(entry)
            elif piece is None or not entry.last:  # the last one may have grown
                raise InvalidFile(
                    f"The input is not the one that this scan began with: block {entry.block} differs.",
                    hint="Restore it, name another output, or judge everything again with --restart.",
                )

    def _spans(self, pieces: Sequence[Piece], failed: Collection[int]) -> list[Span]:
        """What has to be judged, in parts that are large enough to be worth a beginning."""
        marks = [entry.mark for entry in self._ledger.entries]
        marks[pieces[0].number if pieces else len(marks) :] = [piece.mark for piece in pieces]
        wanted = [number for number in range(len(marks)) if number in failed or not self._there(number)]
        size = max(_SPAN, -(-len(wanted) // _SPANS))
        spans = []
        for start in range(0, len(wanted), size):
            some = wanted[start : start + size]
            first = max(0, some[0] - WINDOW) if self._job.columns.parent_id else some[0]
            digests = {number: marks[number].digest for number in some}
            spans.append(Span(first, marks[first - 1] if first else None, digests, failed & digests.keys()))
        return spans

    def _there(self, block: int) -> Entry | None:
        entries = self._ledger.entries
        return entries[block] if block < len(entries) else self._early.get(block)

    def _add(self, entry: Entry) -> None:
        """To the ledger, which knows no gap."""
        entries = self._ledger.entries
        if entry.block < len(entries):
            self._ledger.add(entry)
            return
        self._early[entry.block] = entry
        while found := self._early.pop(len(entries), None):
            self._ledger.add(found)


def _judged(spans: Sequence[Span], work: Work, need: Need, workers: int | None) -> Iterator[Entry]:
    """The entries of all blocks of the spans, in any order."""
    import ray.data

    items = ray.data.from_items([{"span": pickle.dumps(span)} for span in spans], override_num_blocks=len(spans))
    items.context.enable_progress_bars = False
    items.context.print_on_execution_start = False
    items.context.target_max_block_size = 1  # each of our blocks travels alone, as soon as it is read
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        max_size=workers,
        max_concurrent_calls_per_actor=2,  # one block is tokenised while another is scored
        enable_true_multi_threading=True,
    )
    readers = ray.data.TaskPoolStrategy(size=min(_READERS, len(spans)))
    # Readers and writers ask for no core: workers that took all of them would wait for their blocks for ever.
    dataset = (
        items.map_batches(partial(_read, work), batch_size=1, num_cpus=0, compute=readers)
        .map(
            _Judges,  # type: ignore[arg-type]  # typed as a function; a class is documented
            fn_constructor_args=(work,),
            compute=pool,
            num_cpus=need.cores,
            num_gpus=need.gpus,
        )  # fmt: skip
        .map(partial(_write, work), num_cpus=0)
    )
    for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
        yield Entry(**json.loads(batch["entry"][0]))


def _read(work: Work, batch: Mapping[str, Sequence[bytes]]) -> Iterator[dict[str, list[Any]]]:
    """The blocks of a span, one by one."""
    work.store()
    (packed,) = batch["span"]
    first, after, wanted, failed = pickle.loads(packed)
    with closing(blocks(work.job.reader(), work.job.columns, first, after)) as found:
        for block in found:
            if block.number in wanted:
                if block.digest != wanted[block.number]:
                    raise InvalidFile(f"The input is another one: block {block.number} differs.")
                yield {"block": [pickle.dumps(block)], "failed": [block.number in failed]}
            if block.number >= max(wanted):
                return
    raise InvalidFile("The input is another one: it ends too soon.")


class _Judges:
    """A worker: it has loaded the model."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._moderator = Moderator.load(work.settings)
        if _plain(work.job.key(self._moderator)) != work.key:
            raise InvalidSettings(
                "The machines of the cluster have different models, or different versions of guard.",
                hint="Give all the same image.",
            )

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        block: Block = pickle.loads(row["block"])
        job = self._work.job
        judge = Judge(self._moderator, job.policy, job.kind, job.keep_text)  # one that knows of no other block
        if row["failed"]:
            there = records_of(self._work.store(), block.number)
            found, errors = _records(judge, unjudged(block, there))
            found = mended(there, found)
        else:
            found, errors = _records(judge, block)
        return {"judged": pickle.dumps((block._replace(comments=[]), found, errors))}


def _write(work: Work, row: Mapping[str, Any]) -> dict[str, str]:
    block, found, errors = pickle.loads(row["judged"])
    return {"entry": json.dumps(asdict(commit(work.store(), block, found, errors)))}


def _records(judge: Judge, block: Block) -> tuple[list[Record], list[Record]]:
    return judge.records(judge.score(judge.prepare(block)))


def _key(job: Job, settings: Settings, need: Need) -> dict[str, Any]:
    """The job's key, from a worker: this machine may have no room for the model. Raises what loading it raises."""
    import ray

    asked = ray.remote(_key_there).options(num_cpus=need.cores, num_gpus=need.gpus).remote(job, settings)
    ready, _ = ray.wait([asked], timeout=_START_SECONDS)
    if not ready:
        raise NotReady(
            f"No machine of the cluster took the work up: a worker needs {need.cores} cores and {need.gpus} GPUs.",
            hint="Give it machines that have them, or wait until others have done theirs.",
        )
    key: dict[str, Any] = ray.get(asked)
    if key["guard"] != __version__:
        raise InvalidSettings(
            f"This is version {__version__} of guard, and the cluster has {key['guard']}.", hint="Give all the same."
        )
    return key


def _key_there(job: Job, settings: Settings) -> dict[str, Any]:
    return _plain(job.key(Moderator.load(settings)))


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """A key as JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(key))
    return found


@contextmanager
def _connected(address: str) -> Iterator[int]:
    """Within it there is the cluster; 1 comes back if it has a GPU, else 0. Its failures become errors of ours."""
    try:
        import ray
        import ray.data  # missing where only the core of Ray was installed
        from ray.exceptions import RayError
    except ImportError as cause:
        raise NotOffered("A package for clusters is missing.", hint="pip install guard-moderation[ray]") from cause

    ours = not ray.is_initialized()
    if ours:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            if address != "auto":
                _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as cause:
            raise NotReady(
                f"{address}: there is no Ray cluster that can be reached ({type(cause).__name__}).",
                hint="`ray status` must answer there, with the same versions of Ray and Python as here.",
            ) from cause
    try:
        there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield int(there.get("GPU", 0) > 0)
    except RayError as cause:
        raise _explained(cause) from cause
    finally:
        if ours:
            ray.shutdown()


def _knock(address: str) -> None:
    """Does anybody listen there? Ray itself would try for minutes. Raises `OSError` or `ValueError`."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _explained(failure: BaseException) -> GuardError:
    """What a failure on the cluster was. Messages of others are not repeated: they may quote a text."""
    kept = "What is judged so far is kept; the same command goes on."
    chain = list(_causes(failure))
    for cause in chain:
        if isinstance(cause, GuardError) and not hasattr(cause, "cause"):  # Ray makes a class of both
            shared = "All machines must see input, model and ledger under the same names."
            hint = f"{shared} {kept}" if isinstance(cause, InvalidFile) else cause.hint or kept
            return type(cause)(f"On a machine of the cluster: {cause.message}", hint=hint)
    names = [type(cause).__name__ for cause in chain]
    if "OutOfMemoryError" in names:
        return EngineError("The machines of the cluster have too little memory.", hint=f"Use fewer workers. {kept}")
    return EngineError(f"The cluster failed: {names[-1]}.", hint=f"See Ray's logs. {kept}")


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """A failure and what is behind it; Ray keeps that of another machine in an attribute of its own."""
    seen: set[int] = set()
    coming = [failure]
    while coming:
        one = coming.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            behind = (one.__context__, one.__cause__, getattr(one, "cause", None))
            coming += [other for other in behind if isinstance(other, BaseException)]


def _everywhere(job: Job) -> Job:
    """The job with paths that mean the same on every machine."""
    return replace(
        job,
        inputs=tuple(map(_absolute, job.inputs)),
        output=_absolute(job.output),
        ledger=None if job.ledger is None else _absolute(job.ledger),
    )


def _absolute(name: str) -> str:
    if is_database(name) and name.lower().startswith("sqlite"):
        scheme, slashes, path = name.partition(":///")
        return f"{scheme}{slashes}{os.path.abspath(path)}" if path else name
    return name if is_url(name) else os.path.abspath(name)


def _everywhere_settings(settings: Settings) -> Settings:
    """The settings of a worker: the policy travels with the job, and threads are what Ray is asked for."""
    model = os.path.abspath(settings.model) if os.path.isdir(settings.model) else settings.model
    return settings.model_copy(update={"model": model, "policies": (), "threads": settings.threads or 1})
