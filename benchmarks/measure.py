"""What the benchmarks share: where they ran, how they take turns, and the JSON line that each ends with.

Every figure is a ratio within one run: what is compared takes turns, and medians are taken over the rounds.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

FOLDER = Path(__file__).parents[1] / "out" / "bench"


def machine() -> str:
    """Processor, what it multiplies natively, threads, versions."""
    info = Path("/proc/cpuinfo").read_text(errors="replace").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.processor())
    can = torch.cpu.get_capabilities()
    wide = next((label for flag, label in _WIDE.items() if can.get(flag)), "no AVX-512")
    return (
        f"{name}, {wide}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


_WIDE = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "avx512_f": "AVX-512"}


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them once per round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            took = seconds(work)
            if turn:
                times[name].append(took)
    return {name: median(found) for name, found in times.items()}


def emit(benchmark: str, faults: list[str], **figures: object) -> None:
    """Print the benchmark's JSON line, the last of its output; exit with 1 where something does not hold."""
    line = {
        "benchmark": benchmark, **figures, "faults": faults, "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    raise SystemExit(1 if faults else 0)
