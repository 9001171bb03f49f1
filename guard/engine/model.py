"""A decoder's one forward pass over packed tokens.

It is our own rather than transformers': weights are laid out for the processor, the last layer computes only the rows
that are read, and nothing is masked or cached that the tree does not ask for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from guard.engine import adapters, checkpoint
from guard.engine.attention import Geometry, Kept, Kernels, Rotary, TorchKernels
from guard.engine.cache import Prefix, Ring, Stream
from guard.engine.layers import Layer, norm_of
from guard.engine.linear import laid_out
from guard.engine.native import BuildFailed, NativeKernels
from guard.engine.quantized import FULL, linear_maker
from guard.engine.request import BASE, Ids
from guard.engine.tree import Node, Plan, Read
from guard.errors import EngineError, ModelUnavailable

_log = logging.getLogger(__name__)


class TreeModel:
    """The weights, and `hidden`, `prefill` and `log_probs` over them."""

    def __init__(
        self, model: Any, model_id: str, kernels: str = "auto", weights: str = FULL,
        adapter_folders: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        """`model`: a Hugging Face model; `adapter_folders`: LoRA adapters by the names that requests call them."""
        self.model_id = model_id
        config, decoder = model.config, model.model
        self.vocab_size: int = config.vocab_size
        self.max_positions = checkpoint.positions(config)
        self._shape = checkpoint.shape_of(config)
        self.device = decoder.embed_tokens.weight.device
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._embedding_scale: float = getattr(decoder.embed_tokens, "scalar_embed_scale", 1.0)
        self._norm = norm_of(decoder.norm)
        make = linear_maker(weights)
        self._layers = [Layer.of(module, config, module is decoder.layers[-1], make) for module in decoder.layers]
        self._head = laid_out(model.lm_head.weight.detach())
        self._adapters = {
            name: adapters.read(folder, model, self._layers) for name, folder in (adapter_folders or {}).items()
        }
        self._under = {BASE: self._layers} | {
            name: adapters.corrected(self._layers, [(slice(None), adapter)]) for name, adapter in self._adapters.items()
        }
        self._soft_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._kinds = checkpoint.layer_kinds(config)
        first = {kind: decoder.layers[self._kinds.index(kind)].self_attn for kind in self._kinds}
        self.geometries = {kind: _geometry(config, kind, attention) for kind, attention in first.items()}
        rotary = {kind: _rotary(decoder.rotary_emb, kind) for kind in first}
        self.kernels = {
            kind: _pick_kernels(kernels, geometry, rotary[kind], self.device)
            for kind, geometry in self.geometries.items()
        }
        self._stream_kernels = {
            kind: TorchKernels(geometry, rotary[kind], self.device) for kind, geometry in self.geometries.items()
        }

    @classmethod
    def load(
        cls, folder: Path, dtype: str, kernels: str = "auto", weights: str = FULL,
        adapter_folders: Mapping[str, Path] | None = None,
    ) -> TreeModel:  # fmt: skip
        """Read a checkpoint. Raises `ModelUnavailable` for what is missing, broken or not supported."""
        model = checkpoint.read(folder, dtype)
        rounded = "" if weights == FULL else f"+{weights}"  # they judge otherwise
        name = f"{folder.resolve().name}@{checkpoint.fingerprint(folder)}{rounded}"
        return cls(model, name, kernels, weights, adapter_folders)

    @property
    def window(self) -> int | None:
        """The most tokens that see the first one in some layer; None where a layer sees all."""
        windows = [geometry.window for geometry in self.geometries.values()]
        return None if None in windows else max(window for window in windows if window)

    def kept_bytes(self, tokens: int, rolling: bool = False) -> int:
        """Memory for the keys and values of that many tokens in all layers; rolling: of no more than W in each."""
        shape = self._shape if rolling else self._shape.regrouped(self._shape.kv_heads, window=0)
        return shape.cache_bytes(tokens, self._embedding.element_size())

    def unknown_adapter(self, name: str) -> EngineError | None:
        """The error of an adapter that is not loaded, or None."""
        if name in self._under:
            return None
        known = ", ".join(sorted(self._adapters)) or "none"
        return EngineError(f"There is no adapter {name!r}.", hint=f"Loaded: {known}.")

    @property
    def num_bytes(self) -> int:
        """Memory of the layers' matrices, as they are held."""
        return sum(layer.num_bytes for layer in self._layers)

    def unknown_token(self, tokens: Ids) -> EngineError | None:
        """The error of a token that the model does not have, or None."""
        outside = next((token for token in tokens if not 0 <= token < self.vocab_size), None)
        if outside is None:
            return None
        return EngineError(
            f"Token id {outside} is outside the vocabulary of {self.vocab_size}.", hint="Check the tokenizer."
        )

    def too_large(self, length: int, memory_bytes: int, rolling: bool = False) -> EngineError | None:
        """The error of so many tokens that exceed the positions or, as `kept_bytes` counts, the memory; or None."""
        if length > self.max_positions:
            return EngineError(
                f"The request has {length} tokens; the model has {self.max_positions} positions.",
                hint="Judge the text in passages.",
            )
        size = self.kept_bytes(length, rolling)
        if size > memory_bytes:
            return EngineError(
                f"The keys and values of {length} tokens take {size} bytes; the memory is {memory_bytes}.",
                hint="Raise memory_mb, or judge the text in passages.",
            )
        return None

    @torch.inference_mode()
    def hidden(self, made: Plan, past: Prefix | Stream | None, length: int) -> Tensor:
        """Last hidden states of a plan's R read rows, normed: (R, d), in the order of `made.rows`.

        The plan stands behind a prefix of `length` tokens, or behind a stream, which is only read.
        """
        adapter = BASE if past is None else past.adapter
        return self._forward(made, past, length, lambda number, kernels, k, v: None, adapter)

    @torch.inference_mode()
    def prefill(self, tokens: Ids, adapter: str = BASE) -> Prefix:
        """Keys and values of a prefix that stands at the beginning; what comes behind it is under the same adapter."""
        kept: list[Kept] = []
        made = _chain(tokens, 0, read=False)
        self._forward(made, None, 0, lambda _, kernels, k, v: kept.append(kernels.keep(k, v)), adapter)
        return Prefix(tuple(kept), adapter)

    def stream(self, most: int | None = None, adapter: str = BASE) -> Stream:
        """An empty one under an adapter, of `most` tokens at the end, where that is known."""
        return Stream([Ring(self.geometries[kind].window, most) for kind in self._kinds], adapter)

    @torch.inference_mode()
    def extend(self, stream: Stream, tokens: Ids, chunk: int) -> Tensor:
        """Take tokens into a stream, at most `chunk` at a time; the last one's hidden state, normed: (1, d).

        While a chunk of P is taken in, a layer holds its W slots and the chunk's P keys and values.
        """
        hidden = torch.empty(0)
        for first in range(0, len(tokens), chunk):
            part, start = tokens[first : first + chunk], stream.length
            made = _chain(part, start, read=first + chunk >= len(tokens))

            def write(number: int, kernels: Any, k: Tensor, v: Tensor, at: int = start) -> None:
                stream.rings[number].write(kernels.keep(k, v, at), at)  # the layer has read its ring by now

            hidden = self._forward(made, stream, start, write, stream.adapter)
            stream.length += len(part)
        return hidden

    @torch.inference_mode()
    def decode(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Tensor:
        """Take one token into each of N streams; their hidden states, normed: (N, d)."""
        plans = [_chain((token,), stream.length, read=False) for stream, token in zip(streams, tokens, strict=True)]
        layouts = [
            {kind: kernels.layout(made, self._slots(stream, kind)) for kind, kernels in self._stream_kernels.items()}
            for made, stream in zip(plans, streams, strict=True)
        ]
        x = self._embed(tokens)
        layers = adapters.corrected(self._layers, self._rows_of([stream.adapter for stream in streams]))
        for number, (layer, kind) in enumerate(zip(layers, self._kinds, strict=True)):
            kernels = self._stream_kernels[kind]
            h = kernels.norm(x, layer.attention_norm)
            q, k, v = self._split(torch.cat([part(h) for part in layer.inputs], dim=-1), kind)
            q, k = _normed(kernels, layer, q, k)
            attended = []
            for place, stream in enumerate(streams):
                own = slice(place, place + 1)
                ring = stream.rings[number]
                attended.append(kernels.attend(q[own], k[own], v[own], layouts[place][kind], ring.kept, False))
                ring.write(kernels.keep(k[own], v[own], stream.length), stream.length)
            x = _behind(kernels, layer, torch.cat(attended), x)
        for stream in streams:
            stream.length += 1
        return self._stream_kernels[self._kinds[-1]].norm(x, self._norm)

    def _rows_of(self, names: Sequence[str]) -> list[tuple[adapters.Rows, adapters.Adapter]]:
        """Which of the rows are under which adapter, by the adapter that each row names."""
        rows = {name: torch.tensor([i for i, own in enumerate(names) if own == name]) for name in {*names} - {BASE}}
        return [(where.to(self.device), self._adapters[name]) for name, where in rows.items()]

    def _slots(self, stream: Stream, kind: str) -> Tensor:
        """The positions that a stream's rings of one kind hold."""
        return stream.rings[self._kinds.index(kind)].positions(stream.length)

    def _forward(
        self, made: Plan, past: Prefix | Stream | None, length: int,
        keep: Callable[[int, Any, Tensor, Tensor], object], adapter: str,
    ) -> Tensor:  # fmt: skip
        """Last hidden states of the rows that are read. `keep` gets each layer's number, kernels, keys and values."""
        by_kind = self._stream_kernels if isinstance(past, Stream) else self.kernels
        layouts = {
            kind: kernels.layout(made, self._slots(past, kind) if isinstance(past, Stream) else length)
            for kind, kernels in by_kind.items()
        }
        x = self._embed(made.tokens)
        for number, (layer, kind) in enumerate(zip(self._under[adapter], self._kinds, strict=True)):
            kernels, layout, read_only = by_kind[kind], layouts[kind], number == len(self._layers) - 1
            h = kernels.norm(x, layer.attention_norm)
            if read_only:  # the last layer owes the rows that are read and nothing else
                of_q, of_kv = layer.inputs
                (k, v), h, x = of_kv(h).chunk(2, dim=-1), h[layout.rows], x[layout.rows]
                q = of_q(h) if len(h) else h.new_empty(0, self._width(kind))
            else:
                q, k, v = self._split(layer.inputs[0](h), kind)
            q, k = _normed(kernels, layer, q, k)
            before = _before(past, number)
            if len(q):
                x = _behind(kernels, layer, kernels.attend(q, k, v, layout, before, read_only), x)
            keep(number, kernels, k, v)
        return kernels.norm(x, self._norm) if len(x) else x

    @torch.inference_mode()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """(R, d) -> (R, V), float32."""
        logits = self._head(hidden).float()
        if self._soft_cap is not None:
            logits = self._soft_cap * (logits / self._soft_cap).tanh()
        return logits.log_softmax(-1)

    def _embed(self, tokens: Sequence[int]) -> Tensor:
        x = embedding(torch.tensor(tokens, device=self.device), self._embedding)
        return x if self._embedding_scale == 1.0 else x * torch.tensor(self._embedding_scale).to(x)

    def _split(self, qkv: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """(N, (H + 2 K) D) -> queries, keys, values."""
        geometry = self.geometries[kind]
        keys = geometry.num_kv_heads * geometry.head_size
        q, k, v = torch.split(qkv, [self._width(kind), keys, keys], dim=-1)
        return q, k, v

    def _width(self, kind: str) -> int:
        return self.geometries[kind].num_heads * self.geometries[kind].head_size


def _chain(tokens: Ids, start: int, read: bool) -> Plan:
    """Tokens one behind the other, of which the last is read, or none."""
    size = len(tokens)
    reads = [Read(size - 1, 0, 0, 0)] if read else []
    return Plan(list(tokens), list(range(start, start + size)), [Node(0, size, ())], reads)


def _before(past: Prefix | Stream | None, number: int) -> Kept | None:
    if past is None:
        return None
    return past.rings[number].kept if isinstance(past, Stream) else past.layers[number]


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
