"""Linear layers over packed tokens, their weights laid out once for the processor that multiplies them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

_POINTWISE = torch.ops.mkldnn._linear_pointwise  # what torch.compile calls for a linear layer with a fused tail


class Linear:
    """x (N, in) -> (N, out), without a bias.

    On the CPU the weight is kept in oneDNN's own order, which spares a copy of it per call and lets what follows the
    product (`silu`, `times`, `plus`) happen before it is rounded and written. A row's result does not depend on N.
    """

    def __init__(self, weight: Tensor) -> None:
        self._packed = _packs(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T."""
        if not self._packed:
            return linear(x, self._weight)
        return self._fused(x, lambda rows: _POINTWISE(rows, self._weight, None, "none", [], ""))

    def silu(self, x: Tensor) -> Tensor:
        """silu(x W^T)."""
        if not self._packed:
            return silu(self(x))
        return self._fused(x, lambda rows: _POINTWISE(rows, self._weight, None, "swish", [], ""))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T * other."""
        if not self._packed:
            return self(x) * other
        return self._fused(x, lambda rows, others: _POINTWISE.binary(rows, others, self._weight, None, "mul"), other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T + other."""
        if not self._packed:
            return self(x) + other
        return self._fused(x, lambda rows, others: _POINTWISE.binary(rows, others, self._weight, None, "add"), other)

    def _fused(self, x: Tensor, product: Callable[..., Tensor], *others: Tensor) -> Tensor:
        """A single row goes as two: oneDNN adds up a matrix-vector product in another order."""
        if len(x) > 1:
            return product(x, *others)
        return product(*(operand.expand(2, -1).contiguous() for operand in (x, *others)))[:1]


def _packs(weight: Tensor) -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not has_onednn:
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
