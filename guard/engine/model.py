"""A decoder's weights and its one forward pass: loading what Hugging Face reads, refusing what is not supported.

The forward pass is our own rather than transformers': weights are laid out for the processor, the last layer computes
only the rows that are read, and nothing is masked or cached that the tree does not ask for.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as hf_logging

from guard.engine.attention import Geometry, Kept, Kernels, Rotary, TorchKernels
from guard.engine.cache import Prefix
from guard.engine.linear import Linear
from guard.engine.native import BuildFailed, NativeKernels
from guard.engine.request import Ids
from guard.engine.tree import Node, Plan
from guard.errors import ModelUnavailable

_log = logging.getLogger(__name__)

SUPPORTED = ("mistral",)
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model*"]
_FULLY_HASHED = 2**28  # bytes; of a larger weight file only both ends are hashed, so that starting stays quick
_ENDS = 2**20


def model_folder(name: str) -> Path:
    """The folder of a model: `name` itself if it is one, else the download of that Hugging Face model id.

    Raises `ModelUnavailable`.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as cause:  # the hub client raises errors of many libraries
        raise ModelUnavailable(
            f"Model {name!r} is no folder here and could not be fetched: {type(cause).__name__}.",
            hint="Name a folder with a checkpoint, or a Hugging Face model id on a machine with a network.",
        ) from cause


@dataclass(frozen=True)
class _Layer:
    """One decoder layer. The last one has q and kv apart, because it owes the output of a few rows only."""

    attention_norm: Tensor
    inputs: tuple[Linear, ...]  # (qkv,), or (q, kv) of the last layer
    out: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


class TreeModel:
    """The weights, and `hidden`, `prefill` and `log_probs` over them."""

    def __init__(self, model: Any, model_id: str, kernels: str = "auto") -> None:
        self.model_id = model_id
        config, decoder = model.config, model.model
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.device = decoder.embed_tokens.weight.device
        self._epsilon: float = config.rms_norm_eps
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.geometry = Geometry(
            config.num_attention_heads, config.num_key_value_heads, size, config.sliding_window, size**-0.5
        )
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._norm: Tensor = decoder.norm.weight.detach()
        self._layers = [_layer(module, module is decoder.layers[-1]) for module in decoder.layers]
        self._head = Linear(model.lm_head.weight.detach())
        rotary = Rotary(decoder.rotary_emb.inv_freq, decoder.rotary_emb.attention_scaling)
        self.kernels = _pick_kernels(kernels, self.geometry, rotary, self.device)

    @classmethod
    def load(cls, folder: Path, dtype: str, kernels: str = "auto") -> TreeModel:
        """Read a checkpoint. Raises `ModelUnavailable` for what is missing, broken or not supported."""
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ModelUnavailable(
                f"{folder}: config.json cannot be read: {cause}", hint="Check the folder."
            ) from cause
        if config.model_type not in SUPPORTED:
            raise ModelUnavailable(
                f"{folder}: models of type {config.model_type!r} are not supported.",
                hint=f"Supported: {', '.join(SUPPORTED)}.",
            )
        _refuse_unsupported(config, folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=pick_dtype(dtype, device),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as cause:  # safetensors, transformers and torch each have their own errors here
            raise ModelUnavailable(
                f"{folder}: the weights cannot be read: {type(cause).__name__}: {cause}",
                hint="The folder must hold complete model*.safetensors files.",
            ) from cause
        absent = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
        if absent:  # transformers would fill them with random numbers
            raise ModelUnavailable(f"{folder}: no weights for {absent[0]}, {len(absent)} in all.", hint="Get them all.")
        model.eval().to(device)
        return cls(model, f"{folder.resolve().name}@{fingerprint(folder)}", kernels)

    def kept_bytes(self, tokens: int) -> int:
        """Memory for the keys and values of that many tokens, in all layers."""
        geometry = self.geometry
        numbers = 2 * geometry.num_kv_heads * geometry.head_size * tokens * len(self._layers)
        return numbers * self._embedding.element_size()

    @torch.inference_mode()
    def hidden(self, made: Plan, prefix: Prefix | None, prefix_length: int) -> Tensor:
        """Last hidden states of a plan's R read rows, normed: (R, d), in the order of `made.rows`."""
        layout = self.kernels.layout(made, prefix_length)
        x = self._embed(made)
        for number, layer in enumerate(self._layers):
            read_only = number == len(self._layers) - 1
            h = self.kernels.norm(x, layer.attention_norm, self._epsilon)
            if read_only:
                of_q, of_kv = layer.inputs
                (k, v), h, x = of_kv(h).chunk(2, dim=-1), h[layout.rows], x[layout.rows]
                q = of_q(h)
            else:
                q, k, v = self._split(layer.inputs[0](h))
            before = prefix.layers[number] if prefix else None
            x = layer.out.plus(self.kernels.attend(q, k, v, layout, before, read_only), x)
            x = self._mlp(layer, x)
        return self.kernels.norm(x, self._norm, self._epsilon)

    @torch.inference_mode()
    def prefill(self, tokens: Ids) -> Prefix:
        """Keys and values of a prefix that stands at the beginning."""
        size = len(tokens)
        made = Plan(list(tokens), list(range(size)), [Node(0, size, ())], [])
        layout = self.kernels.layout(made, 0)
        x = self._embed(made)
        kept: list[Kept] = []
        for layer in self._layers[:-1]:
            q, k, v = self._split(layer.inputs[0](self.kernels.norm(x, layer.attention_norm, self._epsilon)))
            kept.append(self.kernels.keep(k, v))
            x = layer.out.plus(self.kernels.attend(q, k, v, layout, None, False), x)
            x = self._mlp(layer, x)
        last = self._layers[-1]
        h = self.kernels.norm(x, last.attention_norm, self._epsilon)
        kept.append(self.kernels.keep(*last.inputs[1](h).chunk(2, dim=-1)))
        return Prefix(tuple(kept))

    @torch.inference_mode()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """(R, d) -> (R, V), float32."""
        return self._head(hidden).float().log_softmax(-1)

    def _embed(self, made: Plan) -> Tensor:
        return embedding(torch.tensor(made.tokens, device=self.device), self._embedding)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, (H + 2 K) D) -> queries, keys, values."""
        geometry = self.geometry
        keys = geometry.num_kv_heads * geometry.head_size
        q, k, v = torch.split(qkv, [geometry.num_heads * geometry.head_size, keys, keys], dim=-1)
        return q, k, v

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        h = self.kernels.norm(x, layer.mlp_norm, self._epsilon)
        return layer.down.plus(layer.up.times(h, layer.gate.silu(h)), x)


def _layer(module: Any, last: bool) -> _Layer:
    attention, mlp = module.self_attn, module.mlp
    q, k, v = (part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    return _Layer(
        attention_norm=module.input_layernorm.weight.detach(),
        inputs=(Linear(q), Linear(torch.cat([k, v]))) if last else (Linear(torch.cat([q, k, v])),),
        out=Linear(attention.o_proj.weight.detach()),
        mlp_norm=module.post_attention_layernorm.weight.detach(),
        gate=Linear(mlp.gate_proj.weight.detach()),
        up=Linear(mlp.up_proj.weight.detach()),
        down=Linear(mlp.down_proj.weight.detach()),
    )


def _refuse_unsupported(config: Any, folder: Path) -> None:
    """What would be computed wrongly is not computed."""
    rope = config.rope_parameters["rope_type"]
    for name, value, supported in (("hidden_act", config.hidden_act, "silu"), ("rope_type", rope, "default")):
        if value != supported:
            raise ModelUnavailable(
                f"{folder}: {name} {value!r} is not supported.", hint=f"Supported: {supported!r}."
            )  # fmt: skip


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


def pick_dtype(name: str, device: str) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device == "cuda":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def fingerprint(folder: Path) -> str:
    """Twelve hex digits over configuration, tokenizer and weights; large weight files count by size and both ends."""
    digest = hashlib.sha256()
    names = [p for p in sorted(folder.iterdir()) if p.suffix in {".json", ".safetensors", ".jinja"} and p.is_file()]
    for path in names:
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            if size <= _FULLY_HASHED:
                while block := file.read(_ENDS):
                    digest.update(block)
            else:
                digest.update(file.read(_ENDS))
                file.seek(-_ENDS, 2)
                digest.update(file.read(_ENDS))
    return digest.hexdigest()[:12]
