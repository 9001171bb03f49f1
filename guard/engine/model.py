"""A decoder's one forward pass over packed tokens.

It is our own rather than transformers': weights are laid out for the processor, the last layer computes only the rows
that are read, and nothing is masked or cached that the tree does not ask for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from guard.engine import checkpoint
from guard.engine.attention import Geometry, Kept, Kernels, Rotary, TorchKernels
from guard.engine.cache import Prefix
from guard.engine.layers import Layer, norm_of
from guard.engine.linear import Linear
from guard.engine.native import BuildFailed, NativeKernels
from guard.engine.request import Ids
from guard.engine.tree import Node, Plan
from guard.errors import ModelUnavailable

_log = logging.getLogger(__name__)


class TreeModel:
    """The weights, and `hidden`, `prefill` and `log_probs` over them."""

    def __init__(self, model: Any, model_id: str, kernels: str = "auto") -> None:
        self.model_id = model_id
        config, decoder = model.config, model.model
        self.vocab_size: int = config.vocab_size
        self.max_positions = checkpoint.positions(config)
        self.device = decoder.embed_tokens.weight.device
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._embedding_scale: float = getattr(decoder.embed_tokens, "scalar_embed_scale", 1.0)
        self._norm = norm_of(decoder.norm)
        self._layers = [Layer.of(module, config, module is decoder.layers[-1]) for module in decoder.layers]
        self._head = Linear(model.lm_head.weight.detach())
        self._soft_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._kinds = checkpoint.layer_kinds(config)
        first = {kind: decoder.layers[self._kinds.index(kind)].self_attn for kind in self._kinds}
        self.geometries = {kind: _geometry(config, kind, attention) for kind, attention in first.items()}
        self.kernels = {
            kind: _pick_kernels(kernels, geometry, _rotary(decoder.rotary_emb, kind), self.device)
            for kind, geometry in self.geometries.items()
        }

    @classmethod
    def load(cls, folder: Path, dtype: str, kernels: str = "auto") -> TreeModel:
        """Read a checkpoint. Raises `ModelUnavailable` for what is missing, broken or not supported."""
        model = checkpoint.read(folder, dtype)
        return cls(model, f"{folder.resolve().name}@{checkpoint.fingerprint(folder)}", kernels)

    @property
    def window(self) -> int | None:
        """The most tokens that see the first one in some layer; None where a layer sees all."""
        windows = [geometry.window for geometry in self.geometries.values()]
        return None if None in windows else max(window for window in windows if window)

    def kept_bytes(self, tokens: int) -> int:
        """Memory for the keys and values of that many tokens, in all layers."""
        numbers = sum(2 * self.geometries[kind].num_kv_heads * self.geometries[kind].head_size for kind in self._kinds)
        return numbers * tokens * self._embedding.element_size()

    @torch.inference_mode()
    def hidden(self, made: Plan, prefix: Prefix | None, prefix_length: int) -> Tensor:
        """Last hidden states of a plan's R read rows, normed: (R, d), in the order of `made.rows`."""
        layouts = {kind: kernels.layout(made, prefix_length) for kind, kernels in self.kernels.items()}
        x = self._embed(made)
        for number, (layer, kind) in enumerate(zip(self._layers, self._kinds, strict=True)):
            read_only = number == len(self._layers) - 1
            kernels, layout = self.kernels[kind], layouts[kind]
            h = kernels.norm(x, layer.attention_norm)
            if read_only:
                of_q, of_kv = layer.inputs
                (k, v), h, x = of_kv(h).chunk(2, dim=-1), h[layout.rows], x[layout.rows]
                q = of_q(h)
            else:
                q, k, v = self._split(layer.inputs[0](h), kind)
            q, k = _normed(kernels, layer, q, k)
            before = prefix.layers[number] if prefix else None
            x = _behind(kernels, layer, kernels.attend(q, k, v, layout, before, read_only), x)
        return kernels.norm(x, self._norm)

    @torch.inference_mode()
    def prefill(self, tokens: Ids) -> Prefix:
        """Keys and values of a prefix that stands at the beginning."""
        size = len(tokens)
        made = Plan(list(tokens), list(range(size)), [Node(0, size, ())], [])
        layouts = {kind: kernels.layout(made, 0) for kind, kernels in self.kernels.items()}
        x = self._embed(made)
        kept: list[Kept] = []
        for layer, kind in zip(self._layers[:-1], self._kinds, strict=False):
            kernels = self.kernels[kind]
            q, k, v = self._split(layer.inputs[0](kernels.norm(x, layer.attention_norm)), kind)
            q, k = _normed(kernels, layer, q, k)
            kept.append(kernels.keep(k, v))
            x = _behind(kernels, layer, kernels.attend(q, k, v, layouts[kind], None, False), x)
        last, kernels = self._layers[-1], self.kernels[self._kinds[-1]]
        k, v = last.inputs[1](kernels.norm(x, last.attention_norm)).chunk(2, dim=-1)
        kept.append(kernels.keep(_normed(kernels, last, k, k)[1], v))
        return Prefix(tuple(kept))

    @torch.inference_mode()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """(R, d) -> (R, V), float32."""
        logits = self._head(hidden).float()
        if self._soft_cap is not None:
            logits = self._soft_cap * (logits / self._soft_cap).tanh()
        return logits.log_softmax(-1)

    def _embed(self, made: Plan) -> Tensor:
        x = embedding(torch.tensor(made.tokens, device=self.device), self._embedding)
        return x if self._embedding_scale == 1.0 else x * torch.tensor(self._embedding_scale).to(x)

    def _split(self, qkv: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """(N, (H + 2 K) D) -> queries, keys, values."""
        geometry = self.geometries[kind]
        keys = geometry.num_kv_heads * geometry.head_size
        q, k, v = torch.split(qkv, [geometry.num_heads * geometry.head_size, keys, keys], dim=-1)
        return q, k, v


def _normed(kernels: Kernels[Any], layer: Layer, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (N, heads D), each head normed where the family does so."""
    if layer.query_norm is None or layer.key_norm is None:
        return q, k
    pairs = ((q, layer.query_norm), (k, layer.key_norm))
    q, k = (kernels.norm(x.reshape(-1, len(norm.weight)), norm).view(x.shape) for x, norm in pairs)
    return q, k


def _behind(kernels: Kernels[Any], layer: Layer, attended: Tensor, x: Tensor) -> Tensor:
    """What a layer makes of its heads' outputs (M, H D) and its inputs (M, d)."""
    if layer.after_attention is None:
        x = layer.out.plus(attended, x)
    else:
        x = x + kernels.norm(layer.out(attended), layer.after_attention)
    h = kernels.norm(x, layer.mlp_norm)
    if layer.after_mlp is None:
        return layer.mlp.plus(h, x)
    return x + kernels.norm(layer.mlp(h), layer.after_mlp)


def _geometry(config: Any, kind: str, attention: Any) -> Geometry:
    return Geometry(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        config.sliding_window if kind == "sliding_attention" else None,
        attention.scaling,
        getattr(attention, "attn_logit_softcapping", None) if config.model_type == "gemma2" else None,
    )


def _rotary(module: Any, kind: str) -> Rotary:
    """Gemma 3 has one set of frequencies per kind of layer, the others have one."""
    name = f"{kind}_" if hasattr(module, f"{kind}_inv_freq") else ""
    return Rotary(getattr(module, f"{name}inv_freq"), getattr(module, f"{name}attention_scaling"))


def _pick_kernels(wanted: str, geometry: Geometry, rotary: Rotary, device: torch.device) -> Kernels[Any]:
    """`auto`: the native kernels on a CPU that can build them. Raises `ModelUnavailable` if they are insisted on."""
    if wanted != "torch":
        try:
            if device.type != "cpu":
                raise BuildFailed(f"the model is on {device}")
            return NativeKernels(geometry, rotary)
        except BuildFailed as cause:
            if wanted == "native":
                raise ModelUnavailable(
                    f"The native kernels cannot be had here: {cause}.", hint="Set kernels to auto."
                ) from cause
            _log.info("portable kernels: %s", cause)
    return TorchKernels(geometry, rotary, device)
