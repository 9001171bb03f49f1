"""What a scan will take and find, before it is begun: the input is read once, and a sample of it is judged.

The one rule: what can be counted is counted (rows, equal texts), and what is guessed from the sample comes with its
interval. The sample goes through the steps of a scan, so that none of them is forgotten in the time.
"""

from __future__ import annotations

import math
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from guard.engine.tree import own_tokens
from guard.measure.intervals import wilson
from guard.moderator import Moderator
from guard.scan.blocks import Block, blocks
from guard.scan.columns import Comment
from guard.scan.job import Job
from guard.scan.judge import Judge
from guard.scan.ledger import commit
from guard.scan.store import open_store

SAMPLE = 1024  # rows
_TRIALS = 4  # parts of the sample that are timed one by one
_WARM_UP = 32  # rows, judged before the clock runs


class Guess(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Of a whole scan: `rows` and `distinct` (texts to judge) are counted, the rest is guessed from `sample` rows.

    `seconds` is the time of judging, without the loading of the model; `memory_bytes` the most that judging the sample
    took; `decisions` are rows.
    """

    rows: int
    distinct: int
    sample: int
    tokens: Guess
    seconds: Guess
    memory_bytes: int
    decisions: dict[str, Guess]


def estimate(moderator: Moderator, job: Job, sample: int = SAMPLE) -> Estimate:
    """Read the input of a job and judge `sample` of its rows. Raises as `scan` does."""
    job.check()
    job.key(moderator)  # refuses what a scan would refuse
    counting = Judge(moderator, job.policy, job.kind)
    chosen: list[Comment] = []  # each row with the same probability, however many there are (a reservoir)
    rows = distinct = 0
    draw = random.Random(0)
    started = time.perf_counter()
    for block in blocks(job.reader(), job.columns):
        distinct += len(counting.new(block)[1])
        for comment in block.comments:
            rows += 1
            if len(chosen) < sample:
                chosen.append(comment)
            elif (place := draw.randrange(rows)) < sample:
                chosen[place] = comment
    reading = time.perf_counter() - started
    draw.shuffle(chosen)

    _trial(moderator, job, chosen[:_WARM_UP])
    size = max(1, math.ceil(len(chosen) / _TRIALS))
    trials = [_trial(moderator, job, chosen[at : at + size]) for at in range(0, len(chosen), size)]
    found = Counter(decision for trial in trials for decision in trial.decisions)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Estimate(
        rows=rows,
        distinct=distinct,
        sample=len(chosen),
        tokens=_scaled([tokens for trial in trials for tokens in trial.tokens], distinct),
        seconds=_plus(
            reading + rows * sum(trial.row_seconds for trial in trials) / max(1, len(trials)),
            _scaled([trial.text_seconds for trial in trials if trial.tokens], distinct),
        ),
        memory_bytes=most if sys.platform == "darwin" else most * 1024,
        decisions={decision: _rows(hits, len(chosen), rows) for decision, hits in found.most_common()},
    )


class _Trial(NamedTuple):
    """A part of the sample, judged. Seconds are per text that was asked about, and per row that was written."""

    text_seconds: float
    row_seconds: float
    tokens: list[int]  # of each text that was asked about, behind the policy
    decisions: list[str]


def _trial(moderator: Moderator, job: Job, comments: Sequence[Comment]) -> _Trial:
    judge = Judge(moderator, job.policy, job.kind, job.keep_text)
    block = Block(0, list(comments), {"rows": len(comments)}, "", 1.0, last=True)
    begun = time.perf_counter()
    scored = judge.score(judge.prepare(block))
    records, errors = judge.records(scored)
    judged = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="guard-scan-") as folder:
        commit(open_store(folder), block, records, errors)
    written = time.perf_counter()
    asked = scored.prepared.asked.values()
    return _Trial(
        text_seconds=(judged - begun) / max(1, len(asked)),
        row_seconds=(written - judged) / max(1, len(comments)),
        tokens=[sum(map(own_tokens, one.requests())) for one in asked],
        decisions=[str(record["decision"]) for record in records],
    )


def _scaled(values: Sequence[float], times: int) -> Guess:
    """`times` the mean of a sample, by Student's t."""
    if not values:
        return Guess(0.0, 0.0, 0.0)
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Guess(times * mean, 0.0, math.inf)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return Guess(times * mean, times * max(0.0, mean - half), times * (mean + half))


def _plus(seconds: float, guess: Guess) -> Guess:
    return Guess(*(seconds + value for value in guess))


def _rows(hits: int, sample: int, rows: int) -> Guess:
    """Rows with a decision; where the sample is the whole input, they have been counted."""
    if sample == rows:
        return Guess(hits, hits, hits)
    low, high = wilson(hits, sample)
    return Guess(rows * hits / sample, rows * low, rows * high)
