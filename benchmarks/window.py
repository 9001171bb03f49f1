"""Sliding window against full attention: pre-fill of 16,384 tokens with W = 4,096, on the reference model's heads.

`python -m benchmarks.window`. The same kernel does both: a window skips the blocks of keys that no query of a pass can
see. Fails if attention is not at least 1.8 times faster with the window.
"""

from __future__ import annotations

import dataclasses
import random
from functools import partial

import torch

from benchmarks.measure import FOLDER, emit, in_turns
from benchmarks.workload import prepare, random_ids
from guard.engine.engine import TorchEngine
from guard.engine.tree import Node, Plan

ROUNDS = 5
LENGTH, WINDOW, LEAST_SPEEDUP = 16384, 4096, 1.8


def main() -> None:
    prepare(FOLDER)
    model = TorchEngine.load(FOLDER / "checkpoint", dtype="bfloat16")._model
    (kernels,), (whole,) = model.kernels.values(), model.geometries.values()
    geometries = {"full": whole, "window": dataclasses.replace(whole, window=WINDOW)}
    torch.manual_seed(0)
    k, v = (torch.randn(LENGTH, whole.num_kv_heads * whole.head_size).bfloat16() for _ in range(2))
    attention: dict[str, dict[str, float]] = {}
    for length in (1024, 4096, 8192, LENGTH):
        made = Plan([5] * length, list(range(length)), [Node(0, length, ())], [])
        q = torch.randn(length, whole.num_heads * whole.head_size).bfloat16()

        def attend(name: str, made: Plan = made, q: torch.Tensor = q) -> None:
            kernels._geometry = geometries[name]  # type: ignore[attr-defined]
            layout = kernels.layout(made, 0)
            kernels.attend(q, k[: len(q)], v[: len(q)], layout, None, read_only=False)

        took = in_turns({name: partial(attend, name) for name in geometries}, ROUNDS)
        pairs = length * (length + 1) / 2
        attention[str(length)] = {
            **{f"{name} s": round(t, 4) for name, t in took.items()},
            "speedup": round(took["full"] / took["window"], 2),
            "full GFLOP/s": round(4 * whole.num_heads * whole.head_size * pairs / took["full"] / 1e9),
        }
        print(length, attention[str(length)], flush=True)

    tokens = random_ids(random.Random(1), LENGTH)

    def prefill(name: str) -> None:
        kernels._geometry = geometries[name]  # type: ignore[attr-defined]
        model.prefill(tokens)

    end_to_end = in_turns({name: partial(prefill, name) for name in geometries}, 2)
    speedup = attention[str(LENGTH)]["speedup"]
    faults = [] if speedup >= LEAST_SPEEDUP else [f"attention is {speedup} times faster with the window"]
    emit(
        "window", faults, length=LENGTH, window=WINDOW, speedup=speedup, attention=attention,
        end_to_end_s={name: round(t, 2) for name, t in end_to_end.items()}, kernels=kernels.name,
    )  # fmt: skip


if __name__ == "__main__":
    main()
