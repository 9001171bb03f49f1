"""What a decoder layer is made of, taken out of Hugging Face's modules and laid out for packed tokens.

The families differ in a handful of parts: a norm behind a block as well as before it (Gemma), norms of queries and keys
(Qwen3, Gemma 3), biases (Qwen2), one matrix for several (Phi-3), experts (Mixtral). A part that a family does not have
is None here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from guard.engine.linear import Linear, LinearMaker, activation_of, laid_out


class Norm(NamedTuple):
    """RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467): the gains (d,) and the epsilon."""

    weight: Tensor
    epsilon: float


class Mlp(Protocol):
    """What stands behind attention in a layer."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, d) -> (N, d)."""
        ...

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The same, added to `other` (N, d)."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        ...


@dataclass(frozen=True)
class Dense:
    """down(act(gate x) * up x)."""

    gate: Linear
    up: Linear
    down: Linear
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self._gated(x))

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self.down.plus(self._gated(x), other)

    @property
    def num_bytes(self) -> int:
        return self.gate.num_bytes + self.up.num_bytes + self.down.num_bytes

    def _gated(self, x: Tensor) -> Tensor:
        return self.up.times(x, self.gate.activated(x, self.activation))


@dataclass(frozen=True)
class Experts:
    """Mixtral's sparse block: each token goes through k experts (Jiang et al. 2024, arXiv 2401.04088, section 2.1)."""

    router: Linear
    experts: list[Dense]
    chosen: int

    def __call__(self, x: Tensor) -> Tensor:
        values, indices = self.router(x).float().softmax(-1).topk(self.chosen, dim=-1)
        weights = values / values.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):  # in order, so that a row's sum does not depend on the others
            rows, place = (indices == number).nonzero(as_tuple=True)
            if len(rows):
                out.index_add_(0, rows, (expert(x[rows]) * weights[rows, place, None]).to(x.dtype))
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return other + self(x)

    @property
    def num_bytes(self) -> int:
        return self.router.num_bytes + sum(expert.num_bytes for expert in self.experts)


@dataclass(frozen=True)
class Layer:
    """One decoder layer. The last one has q and kv apart, because it owes the output of a few rows only."""

    attention_norm: Norm
    inputs: tuple[Linear, ...]  # (qkv,), or (q, kv) of the last layer
    query_norm: Norm | None  # of each head
    key_norm: Norm | None
    out: Linear
    after_attention: Norm | None
    mlp_norm: Norm
    mlp: Mlp
    after_mlp: Norm | None

    @property
    def num_bytes(self) -> int:
        """Memory of the matrices."""
        return sum(part.num_bytes for part in (*self.inputs, self.out, self.mlp))

    @classmethod
    def of(cls, module: Any, config: Any, last: bool, make: LinearMaker) -> Layer:
        """The layer in a Hugging Face decoder layer; `make` says how its matrices are held."""
        attention = module.self_attn
        sandwich = hasattr(module, "pre_feedforward_layernorm")  # Gemma: norms behind the blocks too
        return cls(
            attention_norm=norm_of(module.input_layernorm),
            inputs=_inputs(attention, config, last, make),
            query_norm=norm_of(attention.q_norm) if hasattr(attention, "q_norm") else None,
            key_norm=norm_of(attention.k_norm) if hasattr(attention, "k_norm") else None,
            out=_linear(attention.o_proj, make),
            after_attention=norm_of(module.post_attention_layernorm) if sandwich else None,
            mlp_norm=norm_of(module.pre_feedforward_layernorm if sandwich else module.post_attention_layernorm),
            mlp=_mlp(module.mlp, config, make),
            after_mlp=norm_of(module.post_feedforward_layernorm) if sandwich else None,
        )


def norm_of(module: Any) -> Norm:
    """A norm's gains; Gemma's are kept as their distance from one, and applied in float32."""
    weight = module.weight.detach()
    if type(module).__name__.startswith("Gemma"):
        return Norm(1.0 + weight.float(), module.eps)
    return Norm(weight, module.variance_epsilon)


def _inputs(attention: Any, config: Any, last: bool, make: LinearMaker) -> tuple[Linear, ...]:
    if hasattr(attention, "qkv_proj"):  # Phi-3
        weight = attention.qkv_proj.weight.detach()
        keys = config.num_key_value_heads * attention.head_dim
        q, k, v = torch.split(weight, [len(weight) - 2 * keys, keys, keys])
        parts: list[tuple[Tensor, Tensor | None]] = [(q, None), (k, None), (v, None)]
    else:
        modules = (attention.q_proj, attention.k_proj, attention.v_proj)
        parts = [(module.weight.detach(), _bias(module)) for module in modules]
    return tuple(_joined(some, make) for some in ((parts[:1], parts[1:]) if last else (parts,)))


def _joined(parts: list[tuple[Tensor, Tensor | None]], make: LinearMaker) -> Linear:
    """One linear layer whose outputs are those of several, side by side."""
    biases = [bias for _, bias in parts if bias is not None]
    return make(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None)


def _mlp(module: Any, config: Any, make: LinearMaker) -> Mlp:
    activation = activation_of(config)
    if hasattr(module, "experts"):
        experts = module.experts
        pairs = zip(experts.gate_up_proj.detach(), experts.down_proj.detach(), strict=True)
        return Experts(
            laid_out(module.gate.weight.detach()),
            [_dense(gate_up, make(down, None), activation, make) for gate_up, down in pairs],
            config.num_experts_per_tok,
        )
    if hasattr(module, "gate_up_proj"):  # Phi-3
        return _dense(module.gate_up_proj.weight.detach(), _linear(module.down_proj, make), activation, make)
    gate, up, down = (_linear(part, make) for part in (module.gate_proj, module.up_proj, module.down_proj))
    return Dense(gate, up, down, activation)


def _dense(gate_up: Tensor, down: Linear, activation: str, make: LinearMaker) -> Dense:
    """From gate and up in one matrix (2 I, d)."""
    gate, up = gate_up.chunk(2)
    return Dense(make(gate, None), make(up, None), down, activation)


def _linear(module: Any, make: LinearMaker) -> Linear:
    return make(module.weight.detach(), _bias(module))


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()
