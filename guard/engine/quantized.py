"""Weights in 8 or 4 bits: less memory to hold and to read, at some cost in agreement (docs/models.md).

The products and their kernels are torchao's and bitsandbytes'; activations stay as they are. Embeddings, norms, the
output layer and a router of experts stay at full precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from guard.engine.linear import Linear, LinearMaker, PlainLinear, laid_out
from guard.errors import ModelUnavailable

FULL = "full"
GROUP = 64  # weights that share a scale in 4 bits


def linear_maker(weights: str) -> LinearMaker:
    """How a layer's matrices are held: `full`, `int8`, `int4` or `nf4`. Raises `ModelUnavailable`."""
    if weights == FULL:
        return laid_out
    makers: dict[str, Callable[[], LinearMaker]] = {"int8": _int8, "int4": _int4, "nf4": _nf4}
    try:
        return makers[weights]()
    except ImportError as cause:
        raise ModelUnavailable(
            f"Weights in {weights} need a library that is not here: {cause}.",
            hint="pip install 'guard-moderation[quantized]'",
        ) from cause


def _int8() -> LinearMaker:
    """One scale per output; symmetric."""
    from torchao.quantization import Int8Tensor, PerRow

    def made(weight: Tensor, bias: Tensor | None) -> Linear:
        held = Int8Tensor.from_hp(weight, PerRow())
        return PlainLinear(held, bias, _bytes(held.qdata, held.scale))

    return made


def _int4() -> LinearMaker:
    """A scale and a zero point per `GROUP` weights of an output; CPU."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    def made(weight: Tensor, bias: Tensor | None) -> Linear:
        outside, inside = weight.shape
        if weight.device.type != "cpu":
            raise ModelUnavailable("Weights in int4 are multiplied on the CPU only.", hint="Take nf4 or int8 here.")
        if inside % GROUP or outside % 16:
            raise ModelUnavailable(
                f"A matrix of {outside} by {inside} does not divide into int4 groups of 16 by {GROUP}.",
                hint="Take int8, or full.",
            )
        held = Int4OpaqueTensor.from_hp(weight, [1, GROUP])
        return PlainLinear(held, bias, _bytes(held.qdata, held.scale_and_zero))

    return made


def _nf4() -> LinearMaker:
    """Quantiles of the normal distribution, scaled per `GROUP` weights (Dettmers et al. 2023, arXiv 2305.14314, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own use of torch.jit
        import bitsandbytes
    return lambda weight, bias: Nf4Linear(bitsandbytes, weight, bias)


class Nf4Linear(Linear):
    """bitsandbytes' NF4; made for CUDA, and computed on the CPU as well."""

    def __init__(self, library: ModuleType, weight: Tensor, bias: Tensor | None) -> None:
        self._library, self._bias = library, bias
        self._held, self._state = library.functional.quantize_4bit(
            weight.contiguous(), blocksize=GROUP, quant_type="nf4"
        )

    @property
    def num_bytes(self) -> int:
        return _bytes(self._held, self._state.absmax)

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self._library.matmul_4bit(x, self._held.t(), self._state, bias=self._bias)
        return found


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
