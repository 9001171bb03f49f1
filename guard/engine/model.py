"""A decoder's one forward pass over packed tokens.

It is our own rather than transformers': weights are laid out for the processor, the last layer computes only the rows
that are read, and nothing is masked or cached that the tree does not ask for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from guard.engine import adapters, checkpoint
from guard.engine.attention import Geometry, Kept, Kernels, Rotary, TorchKernels
from guard.engine.cache import PAGE, Pool, Prefix, Stream, pages_of
from guard.engine.layers import Dense, Layer, norm_of
from guard.engine.linear import laid_out
from guard.engine.native import BuildFailed, NativeKernels
from guard.engine.quantized import FULL, linear_maker
from guard.engine.request import BASE, Ids
from guard.engine.tree import Node, Plan, Read
from guard.errors import EngineError, ModelUnavailable

if TYPE_CHECKING:
    from guard.engine.flex import Step

_log = logging.getLogger(__name__)


class TreeModel:
    """The weights, and `hidden`, `prefill` and `log_probs` over them."""

    def __init__(
        self, model: Any, model_id: str, kernels: str = "auto", weights: str = FULL,
        adapter_folders: Mapping[str, Path] | None = None, memory_bytes: int = 2**30,
    ) -> None:  # fmt: skip
        """`model`: a Hugging Face model; `adapter_folders`: LoRA adapters by the names that requests call them;
        `memory_bytes`: for the keys and values of running texts."""
        self.model_id = model_id
        self.memory_bytes, self.page = memory_bytes, PAGE
        self._pool: Pool | None = None
        self._making = threading.Lock()
        config, decoder = model.config, model.model
        self.vocab_size: int = config.vocab_size
        self.max_positions = checkpoint.positions(config)
        self._shape = checkpoint.shape_of(config)
        self.device = decoder.embed_tokens.weight.device
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        scale = getattr(decoder.embed_tokens, "scalar_embed_scale", None)
        self._embedding_scale = None if scale is None else torch.tensor(scale).to(self._embedding)
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
        self._stream_kernels: dict[str, Any] = {
            kind: found if isinstance(found, TorchKernels) else TorchKernels(found.geometry, rotary[kind], self.device)
            for kind, found in self.kernels.items()
        }
        self._steps: dict[int, Step] = {}  # by the texts that they have places for

    @classmethod
    def load(
        cls, folder: Path, dtype: str, kernels: str = "auto", weights: str = FULL,
        adapter_folders: Mapping[str, Path] | None = None, memory_bytes: int = 2**30,
    ) -> TreeModel:  # fmt: skip
        """Read a checkpoint. Raises `ModelUnavailable` for what is missing, broken or not supported."""
        model = checkpoint.read(folder, dtype)
        rounded = "" if weights == FULL else f"+{weights}"  # they judge otherwise
        name = f"{folder.resolve().name}@{checkpoint.fingerprint(folder)}{rounded}"
        return cls(model, name, kernels, weights, adapter_folders, memory_bytes)

    @property
    def window(self) -> int | None:
        """The most tokens that see the first one in some layer; None where a layer sees all."""
        windows = [geometry.window for geometry in self.geometries.values()]
        return None if None in windows else max(window for window in windows if window)

    @property
    def pool(self) -> Pool:
        """The memory of the running texts, made for the first of them."""
        with self._making:
            if self._pool is None:
                geometry = self.geometries[self._kinds[0]]
                sizes = (geometry.num_kv_heads, geometry.head_size)
                self._pool = Pool(self.memory_bytes, *sizes, self._embedding.dtype, self.device, self.page)
        return self._pool

    def kept_bytes(self, tokens: int) -> int:
        """Memory for the keys and values of a prefix and what stands behind it, of so many tokens, in all layers."""
        shape = self._shape.regrouped(self._shape.kv_heads, window=0)
        return shape.cache_bytes(tokens, self.width)

    def pages(self, tokens: int) -> int:
        """Pages of the pool that a running text of so many tokens takes: in each layer for no more than W."""
        return sum(pages_of(tokens, self.geometries[kind].window, self.page) for kind in self._kinds)

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

    @property
    def head_bytes(self) -> int:
        """Memory of the output layer's matrix."""
        return self._head.num_bytes

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return self._embedding.element_size()

    def unknown_token(self, tokens: Ids) -> EngineError | None:
        """The error of a token that the model does not have, or None."""
        outside = next((token for token in tokens if not 0 <= token < self.vocab_size), None)
        if outside is None:
            return None
        return EngineError(
            f"Token id {outside} is outside the vocabulary of {self.vocab_size}.", hint="Check the tokenizer."
        )

    def too_large(self, length: int, memory_bytes: int | None = None) -> EngineError | None:
        """The error of so many tokens that exceed the positions or the memory, or None.

        `memory_bytes`: for a prefix and what stands behind it; None: of a running text, whose memory is the pool's.
        """
        if length > self.max_positions:
            return EngineError(
                f"The request has {length} tokens; the model has {self.max_positions} positions.",
                hint="Judge the text in passages.",
            )
        running = memory_bytes is None
        size = self.pages(length) * self.pool.page_bytes if running else self.kept_bytes(length)
        memory = self.memory_bytes if memory_bytes is None else memory_bytes
        if size > memory:
            return EngineError(
                f"The keys and values of {length} tokens take {size} bytes; the memory is {memory}.",
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

    def stream(self, adapter: str = BASE) -> Stream:
        """An empty running text under an adapter."""
        return Stream(self.pool, [self.geometries[kind].window for kind in self._kinds], adapter)

    @torch.inference_mode()
    def extend(self, stream: Stream, tokens: Ids, chunk: int) -> Tensor:
        """Take tokens into a stream, at most `chunk` at a time; the last one's hidden state, normed: (1, d).

        While a chunk of P is taken in, a layer holds its W slots and the chunk's P keys and values. Raises
        `EngineError` where the pool has no room, before anything is taken in.
        """
        stream.reserve(stream.length + len(tokens))
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
        """Take one token into each of N streams; their hidden states, normed: (N, d).

        Raises `EngineError` where the pool has no room, before anything is taken in.
        """
        for stream in streams:
            stream.reserve(stream.length + 1)
        parts = self._rows_of([stream.adapter for stream in streams])
        layers = adapters.corrected(self._layers, parts)
        if all(kernels.name == "flex" for kernels in self._stream_kernels.values()):
            hidden = self._side_by_side(streams, tokens, layers, recordable=not parts)
        else:
            hidden = self._one_by_one(streams, tokens, layers)
        for stream in streams:
            stream.length += 1
        return hidden

    def _one_by_one(self, streams: Sequence[Stream], tokens: Sequence[int], layers: Sequence[Layer]) -> Tensor:
        """Attention goes text by text, each over its own buffer."""
        plans = [_chain((token,), stream.length, read=False) for stream, token in zip(streams, tokens, strict=True)]
        layouts = [
            {kind: kernels.layout(made, self._slots(stream, kind)) for kind, kernels in self._stream_kernels.items()}
            for made, stream in zip(plans, streams, strict=True)
        ]

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kernels, attended = self._stream_kernels[self._kinds[number]], []
            for place, stream in enumerate(streams):
                own, ring = slice(place, place + 1), stream.rings[number]
                before = ring.held(stream.length) if stream.length else None
                layout = layouts[place][self._kinds[number]]
                attended.append(kernels.attend(q[own], k[own], v[own], layout, before, False))
                ring.write(kernels.keep(k[own], v[own], stream.length), stream.length)
            return torch.cat(attended)

        return self._stepped(torch.tensor(tokens, device=self.device), layers, attend)

    def _side_by_side(
        self, streams: Sequence[Stream], tokens: Sequence[int], layers: Sequence[Layer], recordable: bool
    ) -> Tensor:
        """One attention for all texts over the pages of the pool; on a GPU the whole step is recorded and played."""
        from guard.engine.flex import Step

        rows = 1 << (len(streams) - 1).bit_length()
        if rows not in self._steps:
            windows = [self.geometries[kind].window for kind in self._kinds]
            self._steps[rows] = Step(self.pool, windows, rows, self.max_positions)
        step = self._steps[rows]
        step.fill(streams, tokens)

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kernels = self._stream_kernels[self._kinds[number]]
            found: Tensor = kernels.attend_pages(q, k, v, self.pool, step, number)
            return found

        def work() -> Tensor:
            step.begin()
            return self._stepped(step.tokens, layers, attend)

        # which experts a token goes to is known on the way only
        record = recordable and self.device.type == "cuda" and all(isinstance(layer.mlp, Dense) for layer in layers)
        return (step.played(work) if record else work())[: len(streams)]

    def _stepped(
        self, tokens: Tensor, layers: Sequence[Layer], attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """(N,) -> (N, d): every layer over one token of each of N texts."""
        x = self._embed(tokens)
        for number, (layer, kind) in enumerate(zip(layers, self._kinds, strict=True)):
            kernels: Kernels[Any] = self._stream_kernels[kind]
            h = kernels.norm(x, layer.attention_norm)
            q, k, v = self._split(torch.cat([part(h) for part in layer.inputs], dim=-1), kind)
            q, k = _normed(kernels, layer, q, k)
            x = _behind(kernels, layer, attend(number, q, k, v), x)
        return kernels.norm(x, self._norm)

    def _rows_of(self, names: Sequence[str]) -> list[tuple[adapters.Rows, adapters.Adapter]]:
        """Which of the rows are under which adapter, by the adapter that each row names."""
        rows = {name: torch.tensor([i for i, own in enumerate(names) if own == name]) for name in {*names} - {BASE}}
        return [(where.to(self.device), self._adapters[name]) for name, where in rows.items()]

    def _slots(self, stream: Stream, kind: str) -> Tensor:
        """The positions that a stream's buffers of one kind hold."""
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
        x = self._embed(torch.tensor(made.tokens, device=self.device))
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

    def _embed(self, tokens: Tensor) -> Tensor:
        x = embedding(tokens, self._embedding)
        return x if self._embedding_scale is None else x * self._embedding_scale

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
    if isinstance(past, Stream):
        return past.rings[number].held(past.length) if past.length else None
    return past.layers[number] if past else None


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
    """`auto`: flex on a GPU, on a CPU the native kernels where they can be built, else the portable ones.

    Raises `ModelUnavailable` if kernels are insisted on that cannot be had.
    """
    if wanted == "flex" or (wanted == "auto" and device.type == "cuda"):
        from guard.engine.flex import FlexKernels

        return FlexKernels(geometry, rotary, device)
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
