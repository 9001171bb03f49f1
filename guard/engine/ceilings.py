"""What this machine can do at most, found in a few seconds while it is idle: products, and reading memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from guard.engine.checkpoint import pick_dtype
from guard.engine.linear import laid_out
from guard.engine.sizing import Machine

_ROUNDS = 5
_READ = {"cpu": 2**28, "cuda": 2**32}  # bytes: more than any cache holds, and long beside the start of a kernel
_PRODUCTS = {"cpu": [(2048, 2048, 2048)], "cuda": [(16384, 4096, 4096), (16384, 4096, 14336), (8192, 8192, 8192)]}


def measured() -> Machine:
    """The best of some rounds, in the number format that `auto` takes here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = pick_dtype("auto", device)
    much = torch.zeros(_READ[device] // 8, dtype=torch.int64, device=device)
    return Machine(
        operations=max(_operations(*sizes, dtype, device) for sizes in _PRODUCTS[device]),
        bytes=_READ[device] / _fastest(much.sum, device),
    )


def _operations(rows: int, inside: int, outside: int, dtype: torch.dtype, device: str) -> float:
    """A second, of one product."""
    x = torch.randn(rows, inside, device=device).to(dtype)
    layer = laid_out(torch.randn(outside, inside, device=device).to(dtype))
    return 2 * rows * inside * outside / _fastest(lambda: layer(x), device)


def _fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest round, after one that does not count."""
    took = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return min(took[1:])
