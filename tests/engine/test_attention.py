"""Both kernels against attention spelled out: one query at a time, over the keys of its own path, in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from guard.engine.attention import Geometry, Kernels, Rotary, TorchKernels
from guard.engine.layers import Norm
from guard.engine.native import NativeKernels
from guard.engine.request import Request
from guard.engine.tree import Plan, plan
from tests.engine.test_engine import kernels_here

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of values of unit size; float32 turns 400 rad


def make(name: str, geometry: Geometry, rotary: Rotary) -> Kernels:
    if name == "native":
        return NativeKernels(geometry, rotary)
    return TorchKernels(geometry, rotary, torch.device("cpu"))


def frequencies(size: int) -> Tensor:
    return 10000.0 ** (-torch.arange(0, size, 2).float() / size)


def spelled_out(
    geometry: Geometry, q: Tensor, k: Tensor, v: Tensor, before: tuple[Tensor, Tensor], made: Plan
) -> Tensor:
    """Every packed token's output (N, H D). `before`: keys and values (P, K D) of the prefix, not rotated."""
    size, share = geometry.head_size, geometry.num_heads // geometry.num_kv_heads
    prefix = len(before[0])

    def rotated(x: Tensor, position: int) -> Tensor:
        angle = position * frequencies(size).double()
        first, second = x.double()[: size // 2], x.double()[size // 2 :]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])

    out = torch.zeros(len(made.tokens), geometry.num_heads * size, dtype=torch.float64)
    for node in made.nodes:
        path = [*((before[0][i], before[1][i], i) for i in range(prefix))]
        path += [(k[i], v[i], made.positions[i]) for i in node.keys]
        heads = [slice(head * size, (head + 1) * size) for head in range(geometry.num_kv_heads)]
        keys = [torch.stack([rotated(key[at], position) for key, _, position in path]) for at in heads]
        values = [torch.stack([value[at].double() for _, value, _ in path]) for at in heads]
        for token in range(node.start, node.end):
            here = made.positions[token]
            seen = [i for i, (_, _, at) in enumerate(path) if at <= here and here - at < (geometry.window or 10**9)]
            for head in range(geometry.num_heads):
                own = slice(head * size, (head + 1) * size)
                scores = keys[head // share][seen] @ rotated(q[token, own], here)
                out[token, own] = (scores * geometry.scale).softmax(0) @ values[head // share][seen]
    return out


def tree(draw: random.Random, prefix: int, lengths: list[int], questions: list[int]) -> Plan:
    """Contents of those lengths under one prefix, each with questions of those lengths."""

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 10**6) for _ in range(length))

    contents, asked = [ids(length) for length in lengths], [ids(length) for length in questions]
    return plan([Request(((1,) * prefix, c, question), ((7,), (8,)), 2) for c in contents for question in asked])


def check(name: str, geometry: Geometry, prefix: int, made: Plan, dtype: torch.dtype = torch.float32) -> None:
    torch.manual_seed(0)
    size = geometry.head_size
    rotary = Rotary(frequencies(size))
    kernels = make(name, geometry, rotary)

    def numbers(rows: int, heads: int) -> Tensor:
        return torch.randn(rows, heads * size).to(dtype)

    # as they come from one product: side by side in a row
    qkv = numbers(len(made.tokens), geometry.num_heads + 2 * geometry.num_kv_heads)
    widths = (geometry.num_heads * size, geometry.num_kv_heads * size, geometry.num_kv_heads * size)
    q, k, v = qkv.split(widths, dim=-1)
    before = (numbers(prefix, geometry.num_kv_heads), numbers(prefix, geometry.num_kv_heads))
    kept = kernels.keep(*before) if prefix else None
    layout = kernels.layout(made, prefix)
    expected = spelled_out(geometry, q, k, v, before, made)
    found = kernels.attend(q, k, v, layout, kept, read_only=False)
    assert found.dtype is dtype and (found.double() - expected).abs().max() < TOLERANCE[dtype]
    read = kernels.attend(q[layout.rows], k, v, layout, kept, read_only=True)
    assert torch.equal(layout.rows, torch.tensor(made.rows))
    assert (read.double() - expected[layout.rows]).abs().max() < TOLERANCE[dtype]


@pytest.fixture(params=kernels_here())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("window", [None, 1, 2, 127, 128, 129, 200])
@pytest.mark.parametrize("prefix", [0, 1, 100, 128, 131, 260])
def test_windows_and_prefixes_across_the_edges_of_blocks(name, prefix, window):
    made = tree(random.Random(1), prefix, [1, 20, 130], [1, 4])
    check(name, Geometry(2, 1, 8, window, 0.5), prefix, made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"),
    [(4, 4, 16), (6, 2, 64), (5, 1, 20), (8, 1, 96), (2, 2, 128), (3, 1, 2), (1, 1, 256), (48, 1, 4)],
)
def test_shapes_of_heads(name, heads, kv_heads, size, dtype):
    """Multi-head, grouped-query and multi-query attention; sizes that fill no vector, one, and several."""
    made = tree(random.Random(2), 21, [3, 18], [2, 5])
    check(name, Geometry(heads, kv_heads, size, 16, size**-0.5), 21, made, dtype)


def test_pieces_of_one_long_content(name):
    """More queries than the portable kernels take at once, and than a native pass takes."""
    check(name, Geometry(2, 1, 8, 100, 0.5), 3, tree(random.Random(3), 3, [300], [2]))


def test_what_an_earlier_content_left_behind_is_not_seen(name):
    """A longer content that is not finite lies in the native path buffer before a shorter one is written there."""
    geometry, made = Geometry(2, 1, 8, None, 0.5), tree(random.Random(4), 5, [40, 3], [1])
    kernels = make(name, geometry, Rotary(frequencies(8)))
    torch.manual_seed(0)
    q, k, v = torch.randn(45, 16), torch.randn(45, 8), torch.randn(45, 8)
    kept = kernels.keep(torch.randn(5, 8), torch.randn(5, 8))
    clean = kernels.attend(q, k, v, kernels.layout(made, 5), kept, read_only=False)
    v[3:41] = float("nan")
    k[3:41] = float("inf")
    spoilt = kernels.attend(q, k, v, kernels.layout(made, 5), kept, read_only=False)
    assert torch.equal(clean[41:], spoilt[41:])
    assert spoilt[3:41].isnan().all(), "and what is not finite stays so"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(name, threads):
    """Five threads share one tree's queries, each with its own copy of the path."""
    made = tree(random.Random(5), 9, [150], [4, 4])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        check(name, Geometry(2, 1, 8, 40, 0.5), 9, made)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 15, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm(name, size, dtype):
    torch.manual_seed(1)
    x, weight = torch.randn(7, size).to(dtype), torch.randn(size).to(dtype)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    found = make(name, Geometry(2, 1, 8, None, 0.5), Rotary(frequencies(8))).norm(x, Norm(weight, 1e-5))
    assert torch.allclose(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_tables_grow_and_stay_the_same():
    rotary = Rotary(frequencies(8), factor=2.0)
    few = rotary.tables(3)[0][:3].clone()
    many = rotary.tables(1000)
    assert len(many[0]) >= 1000 and torch.equal(many[0][:3], few)
    assert torch.allclose(many[0][999] / 2, (999 * frequencies(8)).cos(), atol=1e-4)
    assert rotary.tables(500) is many
