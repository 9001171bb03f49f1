"""Multi-head, grouped-query and multi-query attention on the reference model's shape: time, and bytes that are kept.

`python -m benchmarks.heads`. One layer, 12 query heads of 64 numbers over 12, 4 or 1 key-value heads, 28 contents of 74
tokens behind a policy of 430, bfloat16. The products are the same in all three; what shrinks is what must be laid out,
kept and read. It promises nothing and cannot fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import emit, in_turns
from benchmarks.workload import random_ids
from guard.engine.attention import Geometry, Rotary
from guard.engine.native import NativeKernels
from guard.engine.request import Request
from guard.engine.tree import plan

ROUNDS = 15
HEADS, SIZE, POLICY, CONTENT, NUM = 12, 64, 430, 74, 28
KINDS = {"multi-head": 12, "grouped-query": 4, "multi-query": 1}
LAYERS = 12


def main() -> None:
    torch.manual_seed(0)
    draw = random.Random(2)
    contents = [random_ids(draw, CONTENT) for _ in range(NUM)]
    made = plan([Request(((1,) * POLICY, content), ((7,), (8,)), 2) for content in contents])
    rotary = Rotary(10000.0 ** (-torch.arange(0, SIZE, 2).float() / SIZE))
    works: dict[str, Callable[[], object]] = {}
    bytes_kept: dict[str, int] = {}
    for name, kv_heads in KINDS.items():
        kernels = NativeKernels(Geometry(HEADS, kv_heads, SIZE, None, SIZE**-0.5), rotary)
        q = torch.randn(len(made.tokens), HEADS * SIZE).bfloat16()
        k, v = (torch.randn(len(made.tokens), kv_heads * SIZE).bfloat16() for _ in range(2))
        kept = kernels.keep(*(torch.randn(POLICY, kv_heads * SIZE).bfloat16() for _ in range(2)))
        layout = kernels.layout(made, POLICY)
        works[name] = partial(kernels.attend, q, k, v, layout, kept, False)
        bytes_kept[name] = 2 * kv_heads * SIZE * 2 * LAYERS
    took = in_turns(works, ROUNDS)
    cases = {
        name: {"kv_heads": KINDS[name], "ms": round(1000 * took[name], 2), "bytes_per_token": bytes_kept[name]}
        for name in KINDS
    }
    for name, case in cases.items():
        print(name, case, flush=True)
    emit("heads", [], cases=cases)


if __name__ == "__main__":
    main()
