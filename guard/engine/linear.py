"""Linear layers over packed tokens, their weights laid out once for the processor that multiplies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

_POINTWISE = torch.ops.mkldnn._linear_pointwise  # what torch.compile calls for a linear layer with a fused tail
# activation -> oneDNN's name, its variant, and the same in torch
ACTIVATIONS: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "silu": ("swish", "", silu),
    "gelu_pytorch_tanh": ("gelu", "tanh", lambda x: gelu(x, approximate="tanh")),
}


def activation_of(config: Any) -> str:
    """The name of an MLP's activation in a Hugging Face configuration; Gemma's own field goes before the common one."""
    name: str = getattr(config, "hidden_activation", None) or config.hidden_act
    return name


class Linear(ABC):
    """x (N, in) -> (N, out), and what follows the product; a kind that can do both in one step overrides the latter."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """x W^T + b."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory of the weights."""

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """activation(x W^T + b)."""
        return ACTIVATIONS[activation][2](self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x W^T + b) * other."""
        return self(x) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T + b + other."""
        return self(x) + other


LinearMaker = Callable[[Tensor, Tensor | None], Linear]  # from the weight (out, in) and the bias (out,)


def laid_out(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The layer at full precision, as this processor multiplies it best."""
    return PackedLinear(weight, bias) if _packs(weight) else PlainLinear(weight, bias)


class PlainLinear(Linear):
    """Anywhere; the weight may be a tensor that knows itself how it is multiplied (see `quantized.py`)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, num_bytes: int | None = None) -> None:
        self._weight, self._bias = weight, bias
        self._num_bytes = weight.numel() * weight.element_size() if num_bytes is None else num_bytes

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self._weight, self._bias)


class PackedLinear(Linear):
    """On the CPU: the weight in oneDNN's own order.

    That spares a copy of it per call and lets what follows the product happen before it is rounded and written. A row's
    result does not depend on N.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias
        self._num_bytes = weight.numel() * weight.element_size()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        return self._fused(x, lambda rows: _POINTWISE(rows, self._weight, self._bias, "none", [], ""))

    def activated(self, x: Tensor, activation: str) -> Tensor:
        name, variant, _ = ACTIVATIONS[activation]
        return self._fused(x, lambda rows: _POINTWISE(rows, self._weight, self._bias, name, [], variant))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self._with(x, other, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._with(x, other, "add")

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        return self._fused(
            x, lambda rows, others: _POINTWISE.binary(rows, others, self._weight, self._bias, operation), other
        )

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
