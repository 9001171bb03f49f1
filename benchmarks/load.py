"""The service under load: a real `guard serve` with the embedded model, asked over a socket by this process.

`python -m benchmarks.load`, with `--minutes` of overload and `--deadline` for the service's `deadline_seconds`. Three
questions: how much of the engine's own rate 64 clients get, what HTTP adds to one client's wait, and what becomes of
memory, waits and answers when twice as much comes as can be done. Fails under 0.8 of the engine's rate, above 2 ms of
overhead, if what is admitted waits more than 3 times as long as at half of the sustained rate, if memory still grows,
or if an overloaded service answers anything but 200 and 429.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.measure import emit, in_turns, seconds
from benchmarks.peers.setup import ROOT
from benchmarks.serving import PATIENCE, serving
from guard import Moderator
from guard.moderator import Task

POLICY = "forum-comments"
PATH = "/v1/moderations"
CLIENTS, ROUNDS = 64, 5
ALONE, BLOCKS = 50, 4  # comments of one client, one after the other, and how often
COMMENTS = 16  # in a request of the overload, so that a few hundred connections are enough
CALM_SECONDS = 60.0  # at half of the sustained rate
LEAST_SHARE, MOST_OVERHEAD_MS, MOST_WAIT, MOST_GROWTH = 0.8, 2.0, 3.0, 1.1


def body(texts: Sequence[str]) -> bytes:
    return json.dumps({"input": list(texts), "policy": POLICY}).encode()


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # no certificates: they would be read while the clock runs
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=PATIENCE, verify=False, trust_env=False
    ) as client:
        yield client


async def sustained(url: str, bodies: Sequence[bytes]) -> None:
    """All bodies, by `CLIENTS` who each send the next one as soon as they are answered.

    Each has a connection of its own: httpx's pool looks at all of its connections at each request.
    """
    waiting = iter(bodies)

    async def one() -> None:
        async with clients(url) as client:
            for content in waiting:
                (await client.post(PATH, content=content)).raise_for_status()

    await asyncio.gather(*(one() for _ in range(CLIENTS)))


async def overloaded(
    client: httpx.AsyncClient, bodies: Iterator[bytes], rate: float, seconds: float, pid: int
) -> tuple[list[tuple[int, float]], list[int]]:
    """Status (0: no answer) and seconds of each request, sent `rate` a second whatever becomes of them; and the
    service's bytes, second by second."""
    found: list[tuple[int, float]] = []

    async def one(content: bytes) -> None:
        start = time.perf_counter()
        try:
            status = (await client.post(PATH, content=content)).status_code
        except httpx.HTTPError:
            status = 0
        found.append((status, time.perf_counter() - start))

    async def watch() -> None:
        while True:
            memory.append(resident(pid))
            await asyncio.sleep(1)

    memory: list[int] = []
    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + n / rate - time.perf_counter()))
            group.create_task(one(next(bodies)))
    watching.cancel()
    return found, memory


def resident(pid: int) -> int:
    """Bytes of a process and of those that it started."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    children = " ".join(file.read_text() for file in process.glob("task/*/children")).split()
    return int(status["VmRSS"].split()[0]) * 1024 + sum(map(resident, map(int, children)))


def percentile(values: Sequence[float], percent: int) -> float:
    """Or 0, where there are too few values to tell."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else 0.0


def shared(url: str, moderator: Moderator, tasks: Sequence[Task], rounds: int) -> dict[str, float]:
    """Comments a second that 64 clients get, and that the engine judges at once."""
    bodies = [body([task.item.text]) for task in tasks]
    took = in_turns(
        {"service": lambda: asyncio.run(sustained(url, bodies)), "engine": lambda: moderator.judge_many(tasks)}, rounds
    )
    found = {name: round(len(tasks) / each, 1) for name, each in took.items()}
    return found | {"share": round(took["engine"] / took["service"], 3)}


def alone(url: str, moderator: Moderator, task: Task) -> dict[str, float]:
    """Milliseconds that one client waits for one comment, and how many of them HTTP adds.

    In blocks: an engine's threads go on turning for a while, and in this process would take the service's processor.
    Asked with the standard library's client: httpx would add most of a millisecond of its own.
    """
    content = body([task.item.text])
    address = urlsplit(url).netloc

    def ask(client: HTTPConnection) -> None:
        client.request("POST", PATH, content)
        answer = client.getresponse()
        answer.read()
        if answer.status != 200:
            raise AssertionError(f"the service answers {answer.status}")

    blocks: dict[str, list[float]] = {"http": [], "direct": []}
    for _ in range(BLOCKS):
        with closing(
            HTTPConnection(address, timeout=PATIENCE)
        ) as client:  # it is not kept open through a block without
            works: dict[str, Callable[[], object]] = {
                "http": partial(ask, client), "direct": partial(moderator.judge_many, [task]),
            }  # fmt: skip
            for name, work in works.items():
                time.sleep(0.5)
                work()
                blocks[name] += [seconds(work) for _ in range(ALONE)]
    took = {name: median(found) for name, found in blocks.items()}
    return {
        "http_ms": round(1000 * took["http"], 2),
        "overhead_ms": round(1000 * (took["http"] - took["direct"]), 2),
    }


def overload(url: str, pid: int, texts: Sequence[str], rate: float, minutes: float) -> dict[str, Any]:
    """What becomes of waits, answers and memory at `rate` comments a second; beside it the waits at a fourth of it."""
    stream = cycle(texts)
    bodies = iter(lambda: body(list(islice(stream, COMMENTS))), b"")

    async def crowd(rate: float, seconds: float) -> tuple[list[tuple[int, float]], list[int]]:
        async with clients(url) as client:
            return await overloaded(client, bodies, rate / COMMENTS, seconds, pid)

    calm_ones, _ = asyncio.run(crowd(rate / 4, CALM_SECONDS))
    found, memory = asyncio.run(crowd(rate, 60 * minutes))
    tenth = max(1, len(memory) // 10)
    early, late = median(memory[tenth : 2 * tenth] or memory), median(memory[-tenth:])  # the first tenth fills queues
    statuses, calm_statuses = (
        {str(status): n for status, n in sorted(Counter(status for status, _ in some).items())}
        for some in (found, calm_ones)
    )
    calm, crowded = (percentile([t for status, t in some if status == 200], 99) for some in (calm_ones, found))
    return {
        "offered_a_second": round(rate, 1), "minutes": minutes,
        "statuses": statuses, "half_load_statuses": calm_statuses,
        "accepted_p99_s": round(crowded, 3), "half_load_p99_s": round(calm, 3),
        "wait": round(crowded / calm, 2),
        "memory_mib": [size >> 20 for size in memory[::tenth]], "growth": round(late / early, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the service under load.")
    parser.add_argument("--minutes", type=float, default=5.0, help="of overload")
    parser.add_argument("--deadline", type=float, help="deadline_seconds while overloaded; its default if left out")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of 64 clients, each round with every comment")
    options = parser.parse_args()

    with (ROOT / "examples" / "forum_comments.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    moderator = Moderator.load()
    tasks = [moderator.task(text, policy=POLICY) for text in texts]
    with serving() as (url, _):
        rates = shared(url, moderator, tasks, options.rounds)
        print(f"{CLIENTS} clients:", rates, flush=True)
        one = alone(url, moderator, tasks[0])
        print("one client:", one, flush=True)
    limited = {} if options.deadline is None else {"GUARD_DEADLINE_SECONDS": str(options.deadline)}
    with serving(**limited) as (url, pid):
        crowd = overload(url, pid, texts, 2 * rates["service"], options.minutes)
        print("overload:", crowd, flush=True)

    faults: list[str] = []
    if rates["share"] < LEAST_SHARE:
        faults.append(f"{CLIENTS} clients get {rates['share']:.2f} of the engine's rate")
    if one["overhead_ms"] > MOST_OVERHEAD_MS:
        faults.append(f"HTTP adds {one['overhead_ms']:.1f} ms")
    if crowd["statuses"].keys() - {"200", "429"}:
        faults.append(f"an overloaded service answers {crowd['statuses']}")
    if crowd["wait"] > MOST_WAIT:
        faults.append(f"what is admitted waits {crowd['wait']} times as long")
    if crowd["growth"] > MOST_GROWTH:
        faults.append(f"memory grows by {crowd['growth'] - 1:.0%}")
    emit(
        "load", faults, policy=POLICY, comments=len(texts), clients=CLIENTS, **rates, **one, overload=crowd,
        deadline=options.deadline,
    )  # fmt: skip


if __name__ == "__main__":
    main()
