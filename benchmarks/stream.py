"""What a running text holds, resident and at its peak, against its length, with a window of 4,096 and without one.

`python -m benchmarks.stream`. Two layers of the reference model's shape in the machine's precision, and 32,768 tokens
that come in 1,024 at a time. Each case runs in a process of its own, and its peak is what the system saw (VmHWM, set
back before each length), so it holds everything: buffers that grow, products, allocator. It fails if the resident bytes
grow past the window, or are not a half at 8,192 and an eighth at 32,768 of those without one.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

from benchmarks.measure import emit
from benchmarks.workload import SHAPE, random_ids
from guard.engine.checkpoint import pick_dtype
from guard.engine.model import TreeModel

WINDOW, CHUNK, LAYERS = 4096, 1024, 2
LENGTHS = (1024, 4096, 8192, 16384, 32768)


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(grown(int(sys.argv[1]) or None)))
        return
    cases: dict[str, dict[str, Any]] = {}
    for name, window in (("whole", 0), ("window", WINDOW)):
        command = [sys.executable, "-m", "benchmarks.stream", str(window)]
        cases[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, cases[name], flush=True)
    resident = {name: {length: case[length]["resident"] for length in case} for name, case in cases.items()}
    whole, windowed = resident["whole"], resident["window"]
    faults = [
        f"at {length} the window holds {windowed[length] / whole[length]:.3f} of the whole"
        for length, share in (("8192", 1 / 2), ("32768", 1 / 8))
        if windowed[length] != share * whole[length]
    ]
    if len({windowed[length] for length in ("4096", "8192", "16384", "32768")}) > 1:
        faults.append("resident bytes grow past the window")
    emit("stream", faults, window=WINDOW, chunk=CHUNK, layers=LAYERS, cases=cases)


def grown(window: int | None) -> dict[int, dict[str, int]]:
    """Bytes at each length: held between calls, and at the peak above what the process had before the text began."""
    torch.manual_seed(0)
    config = MistralConfig(**{**SHAPE, "sliding_window": window, "num_hidden_layers": LAYERS})
    model = TreeModel(MistralForCausalLM(config).eval().to(pick_dtype("auto", "cpu")), "stream")
    text = random_ids(random.Random(3), max(LENGTHS))
    model.extend(model.stream(), text[:CHUNK], CHUNK)  # what is laid out once is laid out
    before, stream, found = _status("VmRSS"), model.stream(), {}
    for length in LENGTHS:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        while stream.length < length:
            model.extend(stream, text[stream.length : stream.length + CHUNK], CHUNK)
        found[length] = {"resident": stream.num_bytes, "peak": _status("VmHWM") - before}
    return found


def _status(name: str) -> int:
    """Bytes that the operating system counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
