"""LoRA adapters in PEFT's files (Hu et al. 2021, arXiv 2106.09685): small corrections beside one set of weights.

Each request names the adapter that it is asked under. A matrix W then acts as W + s B A, where A is (r, in) and B
(out, r); W itself is neither copied nor changed. What PEFT can store and is not computed here is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from guard.engine.checkpoint import shape_of
from guard.engine.layers import Dense, Layer
from guard.engine.linear import Linear, laid_out
from guard.engine.sizing import Shape
from guard.errors import ModelUnavailable

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_KEY = re.compile(r"base_model\.model\.(model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+))\.lora_([AB])\.weight")
_SPLIT = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}  # Phi-3
# the parts of a layer here, and which matrices lie side by side in each
_JOINED = {
    "qkv": ("q_proj", "k_proj", "v_proj"), "q": ("q_proj",), "kv": ("k_proj", "v_proj"), "out": ("o_proj",),
    "gate": ("gate_proj",), "up": ("up_proj",), "down": ("down_proj",),
}  # fmt: skip
# PEFT's fields that leave s B A as it is; whatever else is set would make it something else
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
_NEUTRAL = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}  # others change W first
Rows = slice | Tensor  # which rows of x an adapter corrects
Sizes = Mapping[str, tuple[int, int]]  # (out, in) of each matrix of a layer


@dataclass(frozen=True)
class Delta:
    """x (N, in) -> x A^T (s B)^T (N, out)."""

    down: Linear
    up: Linear


@dataclass(frozen=True)
class Adapter:
    """The corrections of each layer, by the names of its parts here."""

    layers: Sequence[Mapping[str, Delta]]


class Corrected(Linear):
    """A matrix with corrections on some of the rows; the others pass as they are."""

    def __init__(self, base: Linear, corrections: Sequence[tuple[Rows, Delta]]) -> None:
        self._base, self._corrections = base, corrections

    @property
    def num_bytes(self) -> int:
        return self._base.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        out = self._base(x)
        for rows, delta in self._corrections:
            out[rows] = delta.up.plus(delta.down(x[rows]), out[rows])
        return out


def corrected(layers: Sequence[Layer], adapters: Sequence[tuple[Rows, Adapter]]) -> list[Layer]:
    """The layers with each adapter on its rows; the weights are those of `layers`."""

    def part(number: int, name: str, base: Linear) -> Linear:
        found = [(rows, delta) for rows, adapter in adapters if (delta := adapter.layers[number].get(name))]
        return Corrected(base, found) if found else base

    def layer_of(number: int, layer: Layer) -> Layer:
        inputs = tuple(part(number, name, base) for name, base in zip(_inputs(layer), layer.inputs, strict=True))
        mlp = layer.mlp
        if isinstance(mlp, Dense):
            gate, up, down = (part(number, name, getattr(mlp, name)) for name in ("gate", "up", "down"))
            mlp = replace(mlp, gate=gate, up=up, down=down)
        return replace(layer, inputs=inputs, out=part(number, "out", layer.out), mlp=mlp)

    return [layer_of(number, layer) for number, layer in enumerate(layers)] if adapters else list(layers)


def read(folder: Path, model: Any, layers: Sequence[Layer]) -> Adapter:
    """The adapter in `folder`, laid out for the layers that were made of this Hugging Face model.

    Raises `ModelUnavailable` for what is missing, of another model, or not supported.
    """
    settings = _settings(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as cause:  # safetensors and the file system have their own errors
        raise ModelUnavailable(
            f"{folder}: {WEIGHTS} cannot be read: {cause}", hint="Save the adapter as safetensors."
        ) from cause
    sizes = _sizes(shape_of(model.config))
    pairs: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in layers]
    for key, down in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or int(match[2]) >= len(layers) or match[3] not in sizes:
            raise _refused(folder, f"{key} belongs to no matrix that is corrected here")
        if match[4] == "B":
            if key.replace("lora_B", "lora_A") not in tensors:
                raise _refused(folder, f"{match[1]}: a B has no A")
            continue  # it comes with its A
        path, number, name = match[1], int(match[2]), match[3]
        up = tensors.get(key.replace("lora_A", "lora_B"))
        if up is None or (up.shape[0], down.shape[1]) != sizes[name] or len(down) != up.shape[1]:
            shapes = f"A {tuple(down.shape)} and B {None if up is None else tuple(up.shape)}"
            outside, inside = sizes[name]
            raise _refused(folder, f"{path} is {outside} by {inside}, which {shapes} cannot correct")
        up = up * _scale(settings, path, len(down))
        parts = _SPLIT.get(name, (name,))
        ups = torch.split(up, [sizes[part][0] for part in parts])
        pairs[number].update({part: (down, some) for part, some in zip(parts, ups, strict=True)})
    like = model.model.embed_tokens.weight
    return Adapter([_laid_out(layer, own, sizes, like) for layer, own in zip(layers, pairs, strict=True)])


def _laid_out(layer: Layer, pairs: Mapping[str, tuple[Tensor, Tensor]], sizes: Sizes, like: Tensor) -> dict[str, Delta]:
    """Matrices that lie side by side in a part have their B on a diagonal, and nothing where there is no correction."""
    found = {}
    for name in (*_inputs(layer), "out", "gate", "up", "down"):
        held = [pairs.get(matrix) for matrix in _JOINED[name]]
        if any(held):
            downs = torch.cat([pair[0] for pair in held if pair]).to(like)
            blocks = [
                pair[1] if pair else torch.empty(sizes[matrix][0], 0)
                for matrix, pair in zip(_JOINED[name], held, strict=True)
            ]
            ups = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
            found[name] = Delta(laid_out(downs), laid_out(ups.to(like)))
    return found


def _inputs(layer: Layer) -> tuple[str, ...]:
    return ("qkv",) if len(layer.inputs) == 1 else ("q", "kv")


def _sizes(shape: Shape) -> Sizes:
    """Those of Phi-3's joint matrices too; experts cannot be corrected."""
    width, mlp = shape.hidden, shape.mlp
    q, k = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = {"q_proj": (q, width), "k_proj": (k, width), "v_proj": (k, width), "o_proj": (width, q)}
    joint = {"qkv_proj": (q + 2 * k, width)}
    if shape.experts > 1:
        return {**attention, **joint}
    inner = {"gate_proj": (mlp, width), "up_proj": (mlp, width), "gate_up_proj": (2 * mlp, width)}
    return {**attention, **joint, **inner, "down_proj": (width, mlp)}


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, _ = settings["peft_type"], float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ModelUnavailable(f"{folder}: {CONFIG} cannot be read: {cause!r}", hint="Check the folder.") from cause
    if kind != "LORA":
        raise _refused(folder, f"adapters of type {kind!r} are not supported")
    for name, value in settings.items():
        if value and name not in _HARMLESS and value not in _NEUTRAL.get(name, ()):
            raise _refused(folder, f"adapters with {name} {value!r} are not supported")
    return settings


def _scale(settings: Mapping[str, Any], path: str, rank: int) -> float:
    """s: alpha / r, or alpha / sqrt(r) in a rank-stabilised adapter; some matrices may have an alpha of their own."""
    own = (settings.get("alpha_pattern") or {}).items()
    fitting = (value for pattern, value in own if re.fullmatch(rf"(.*\.)?({pattern})", path))
    alpha = float(next(fitting, settings["lora_alpha"]))
    return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank


def _refused(folder: Path, fault: str) -> ModelUnavailable:
    return ModelUnavailable(f"{folder}: {fault}.", hint="Supported: LoRA of attention and of dense MLPs.")
