"""The attention of training against plain causal attention, row by row."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from training.model import Pack, layout, shared_prefix_attention


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("prefix", [0, 1, 7])
def test_each_row_sees_the_prefix_and_itself(prefix: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    lengths = [1, 3, 5, 5, 9]
    n = prefix + sum(lengths)
    q, k, v = torch.randn(1, 4, n, 8), torch.randn(1, kv_heads, n, 8), torch.randn(1, kv_heads, n, 8)
    groups = layout(prefix, lengths, per_group=2)
    out, _ = shared_prefix_attention(None, q, k, v, None, scaling=8**-0.5, prefix=prefix, groups=groups)
    k, v = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    start = prefix
    for length in lengths:
        seen = [*range(prefix), *range(start, start + length)]
        expected = sdpa(q[:, :, seen], k[:, :, seen], v[:, :, seen], is_causal=True)[0, :, prefix:].transpose(0, 1)
        assert torch.allclose(out[0, start : start + length], expected, atol=1e-5)
        start += length


def test_rows_are_packed_the_shortest_first_and_found_again() -> None:
    pack = Pack.of([9], [[1, 2, 3], [4]])
    assert pack.ids.tolist() == [9, 4, 1, 2, 3]
    assert pack.positions.tolist() == [0, 1, 1, 2, 3]
    assert pack.starts.tolist() == [2, 1]
