"""Linear layers: the packed product and its fused tails against the plain ones; a row's result whatever its company."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from guard.engine import linear
from guard.engine.linear import PackedLinear, laid_out


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(linear, "_packs", lambda weight: False)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_products_and_their_tails(packed, dtype, rows, biased):
    torch.manual_seed(0)
    weight, x, other = (torch.randn(*shape).to(dtype) for shape in ((24, 40), (rows, 40), (rows, 24)))
    bias = torch.randn(24).to(dtype) if biased else None
    plain = x.double() @ weight.double().T + (bias.double() if bias is not None else 0)
    layer = laid_out(weight, bias)
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    for found, expected in (
        (layer(x), plain),
        (layer.activated(x, "silu"), silu(plain)),
        (layer.activated(x, "gelu_pytorch_tanh"), gelu(plain, approximate="tanh")),
        (layer.times(x, other), plain * other.double()),
        (layer.plus(x, other), plain + other.double()),
    ):
        assert found.dtype is dtype and found.shape == expected.shape
        assert torch.allclose(found.double(), expected, rtol=tolerance / 5, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_alone_and_in_company(dtype):
    """Shapes of the reference model; oneDNN takes a single row another way, which `PackedLinear` avoids."""
    torch.manual_seed(0)
    for inside, outside in ((768, 1280), (2048, 768)):
        layer = laid_out((torch.randn(outside, inside) * 0.02).to(dtype))
        x = torch.randn(300, inside).to(dtype)
        whole = layer(x)
        for first, size in ((7, 1), (0, 2), (50, 31), (100, 200)):
            found = layer(x[first : first + size])
            assert torch.allclose(found.float(), whole[first : first + size].float(), rtol=1e-2, atol=1e-5)
            if isinstance(layer, PackedLinear):
                assert torch.equal(found, whole[first : first + size])
