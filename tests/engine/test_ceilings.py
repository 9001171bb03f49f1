"""Ceilings are what this machine does, not less than a slow loop over the same work."""

from __future__ import annotations

import time

import torch

from guard.engine import ceilings
from guard.engine.checkpoint import pick_dtype


def test_ceilings_are_at_least_what_a_plain_product_and_a_sum_reach() -> None:
    found = ceilings.measured()
    dtype = pick_dtype("auto", "cpu")
    x, w = (torch.randn(512, 512).to(dtype) for _ in "xw")
    began = time.perf_counter()
    x @ w
    plain = 2 * 512**3 / (time.perf_counter() - began)  # cold, and small
    assert found.operations > plain / 4
    assert 1e8 < found.bytes < 1e13
