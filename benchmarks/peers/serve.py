"""What every peer shares: a process that loads one engine and then answers lines on stdin with lines on stdout.

`python -m benchmarks.peers.NAME FOLDER [--dtype D]` warms up and prints `{"ready": true, "peer", "version",
"precision", "settings"}`. For every line `run K` it judges K contents, spread evenly over the lengths, and prints
`{"seconds": s, "decisions": {"index of the content": label token}}`. It exits at the end of stdin.

The clock runs from token ids to decisions. The policy may stay in the engine's cache from run to run; the contents may
not, since a real scan sees each of them once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.workload import Ids, Work

THREADS = len(os.sched_getaffinity(0))
_WARM_UP = 32  # contents


class Peer(ABC):
    """One engine with the work's model loaded."""

    name: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]] = ("bf16",)  # the default first
    version: str
    precision: str
    settings: str

    @abstractmethod
    def __init__(self, folder: Path, work: Work, dtype: str) -> None: ...

    @abstractmethod
    def decide(self, contents: Sequence[Ids]) -> list[int]:
        """The label token of each content, in their order."""

    def forget(self) -> None:  # noqa: B027 - most engines keep no contents
        """Drops what the engine remembers of earlier contents; called off the clock."""


def spread(work: Work, num: int) -> list[int]:
    """Indices of `num` contents, evenly over the contents sorted by length."""
    order = sorted(range(len(work.contents)), key=lambda i: len(work.contents[i]))
    return sorted(order[(2 * i + 1) * len(order) // (2 * num)] for i in range(num))


def batches(contents: Sequence[Ids], size: int) -> Iterator[list[int]]:
    """Indices of the contents, longest first, `size` at a time."""
    order = sorted(range(len(contents)), key=lambda i: -len(contents[i]))
    return (order[i : i + size] for i in range(0, len(order), size))


def serve(kind: type[Peer]) -> None:
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=kind.dtypes, default=kind.dtypes[0])
    args = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    work = Work.load(args.folder / "work.json")
    peer = kind(args.folder, work, args.dtype)
    peer.decide([work.contents[i] for i in spread(work, _WARM_UP)])
    about = {"version": peer.version, "precision": peer.precision, "settings": peer.settings}
    print(json.dumps({"ready": True, "peer": peer.name, **about}), file=answers)

    for line in sys.stdin:
        items = spread(work, int(line.removeprefix("run ")))
        contents = [work.contents[i] for i in items]
        peer.forget()
        start = time.perf_counter()
        decisions = peer.decide(contents)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "decisions": dict(zip(items, decisions, strict=True))}), file=answers)
