"""`guard scan` beside the engine alone, and what an archive costs: memory, going on after a kill, the dry run's word.

`python -m benchmarks.scan [--rows N]`. The comments are those of `examples/`, each repeated with variations, so that
hardly two are the same. With the embedded model: rows a second of a whole scan (reading to the finished file) against
the engine's own rate on the same requests, taking turns. With the fake engine, which costs next to nothing, so that
what is around it is seen: peak memory at two sizes, a scan that is killed at half its rows and started again, what
going on costs beside loading, the lost block and the output, and the time that `--dry-run` foretells. Fails under 95 %
of the engine's rate, where memory grows, where output after the kill is another, where going on costs more than 1 % of
what the model would take for these rows, or where the foretold time is wrong by more than a fifth.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import FOLDER, emit, in_turns
from benchmarks.peers.setup import ROOT
from guard import Moderator
from guard.scan.columns import Columns
from guard.scan.job import Job
from guard.scan.scan import scan

POLICY = "forum-comments"
ROUNDS = 3
JUDGED = 480  # rows that the model judges in a turn
LEAST_SHARE, MOST_GROWTH, MOST_RESUME, MOST_ERROR = 0.95, 1.1, 0.01, 0.2


class Ended(NamedTuple):
    """A process that has ended: its seconds, its peak memory in MiB, what it said last, and its status."""

    seconds: float
    memory: float
    told: str
    status: int


def corpus(path: Path, rows: int) -> Path:
    """`rows` comments, the 240 that ship again and again, each time with another number in them."""
    with (ROOT / "examples" / "forum_comments.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["id", "text"])
        written.writerows([i, f"{texts[i % len(texts)]} ({i // len(texts)})"] for i in range(rows))
    return path


def run(source: Path, out: Path | None, *options: str, kill_at: int | None = None) -> Ended:
    """`guard scan` with the fake engine; killed once it says that so many rows are judged."""
    guard = str(Path(sys.executable).with_name("guard"))
    told = ["--progress", "json", "--out", str(out)] if out else ["--dry-run"]
    command = [guard, "scan", str(source), "--id-column", "id", "--policy", POLICY, "--model", "fake", *told, *options]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr and process.stdout
    last, memory = "", 0.0
    for last in process.stderr:
        memory = _peak(process.pid) or memory
        if kill_at is not None and json.loads(last)["rows"] >= kill_at:
            process.send_signal(signal.SIGKILL)
            kill_at = None
    said = process.stdout.read()
    return Ended(time.perf_counter() - begun, memory, said or last, process.wait())


def _peak(process: int) -> float | None:
    """The most memory that a process has held so far, in MiB; none of one that has ended.

    What `wait` says is no use: it counts what the parent held when it started the process.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except ProcessLookupError:
        return None
    return int(found[1]) / 1024 if found else None


def rates(folder: Path) -> dict[str, Any]:
    """The embedded model: rows a second of the engine and of a whole scan."""
    moderator = Moderator.load()
    policy = moderator.policies.get(POLICY)
    source = corpus(folder / "judged.csv", JUDGED)
    job = Job((str(source),), str(folder / "judged.jsonl"), policy, policy.default_kind, Columns(id="id"))
    with source.open(newline="", encoding="utf-8") as file:
        tasks = [moderator.task(row["text"], policy=policy) for row in csv.DictReader(file)]
    requests = [request for task in tasks for request in moderator.ask(task).requests()]
    took = in_turns(
        {"engine": partial(moderator.engine.score, requests), "scan": partial(scan, moderator, job, restart=True)},
        ROUNDS,
    )
    return {
        "engine": round(JUDGED / took["engine"], 1),
        "scan": round(JUDGED / took["scan"], 1),
        "share": round(took["engine"] / took["scan"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    folder = FOLDER / "scan"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir(parents=True)

    judged = rates(folder)
    print(judged, flush=True)
    small = run(corpus(folder / "small.csv", rows // 10), folder / "small.jsonl")
    source = corpus(folder / "large.csv", rows)
    foretold = run(source, None)
    clock = re.search(r"time \(h:mm:ss\)\s+(\d+):(\d+):(\d+)", foretold.told)
    assert clock, foretold
    hours, minutes, seconds = map(int, clock.groups())
    expected = 3600 * hours + 60 * minutes + seconds
    whole = run(source, folder / "whole.jsonl")
    print(small, whole, expected, flush=True)

    out = folder / "out.jsonl"
    killed = run(source, out, kill_at=rows // 2)
    rest = run(source, out)
    equal = out.read_bytes() == (folder / "whole.jsonl").read_bytes()
    # all is done but one block: what this takes beside loading, a block and the output is the going on
    ledger = folder / "out.jsonl.ledger"
    max(ledger.glob("[0-9]*.jsonl")).unlink()
    last = run(source, out)
    (ledger / "finished.json").unlink()
    nothing = run(source, out)
    print(killed, rest, last, nothing, flush=True)

    faults = []
    growth = whole.memory / small.memory
    resume = last.seconds - nothing.seconds - whole.seconds / len(list(ledger.glob("[0-9]*.jsonl")))
    resume_share = resume / (rows / judged["scan"])
    if judged["share"] < LEAST_SHARE:
        faults.append(f"{judged['share']:.0%} of the engine's rate")
    if growth > MOST_GROWTH:
        faults.append(f"{growth:.2f} times the memory at ten times the rows")
    if killed.status != -signal.SIGKILL or not equal:
        faults.append("the output after a kill is another")
    if resume_share > MOST_RESUME:
        faults.append(f"going on costs {resume_share:.1%} of the run")
    if abs(expected / whole.seconds - 1) > MOST_ERROR:
        faults.append(f"foretold {expected} s, took {whole.seconds:.0f}")
    emit(
        "scan", faults, policy=POLICY, **judged, rows=rows, memory_small_mib=round(small.memory),
        memory_mib=round(whole.memory), seconds=round(whole.seconds, 1), foretold_seconds=expected,
        killed_seconds=round(killed.seconds, 1), rest_seconds=round(rest.seconds, 1), resume_seconds=round(resume, 1),
        resume_share=round(resume_share, 5), equal=equal,
    )  # fmt: skip


if __name__ == "__main__":
    main()
