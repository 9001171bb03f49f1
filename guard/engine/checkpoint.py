"""A checkpoint on disk: which ones are refused, and how it is read.

What is not computed here as its authors compute it is refused by name, never computed otherwise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as hf_logging

from guard.engine.linear import ACTIVATIONS, activation_of
from guard.engine.sizing import Shape
from guard.errors import ModelUnavailable

SUPPORTED = ("gemma2", "gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3")
# Frequencies that do not change with the length of the text; longrope's do not below its first length (`positions`).
_ROTARY = ("default", "linear", "llama3", "yarn", "longrope")
_LAYERS = ("full_attention", "sliding_attention")
_FULLY_HASHED = 2**28  # bytes; of a larger weight file only both ends are hashed, so that starting stays quick
_ENDS = 2**20


def read(folder: Path, dtype: str) -> Any:
    """The Hugging Face model in `folder`, on the GPU if there is one. Raises `ModelUnavailable`.

    Only safetensors are read, and code that comes with a checkpoint is never run.
    """
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    config = config_of(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=pick_dtype(dtype, device),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # named below
            output_loading_info=True,
        )
    except Exception as cause:  # safetensors, transformers and torch each have their own errors here
        raise ModelUnavailable(
            f"{folder}: the weights cannot be read: {type(cause).__name__}: {cause}",
            hint="The folder must hold complete model*.safetensors files.",
        ) from cause
    _refuse_other_weights(info, folder)
    return model.eval().to(device)


def config_of(folder: Path) -> Any:
    """The configuration in `folder`. Raises `ModelUnavailable` where it is faulty or not supported."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as cause:
        raise ModelUnavailable(f"{folder}: config.json cannot be read: {cause}", hint="Check the folder.") from cause
    if kind not in SUPPORTED:  # before transformers would look for code that comes with it
        raise ModelUnavailable(
            f"{folder}: models of type {kind!r} are not supported.", hint=f"Supported: {', '.join(SUPPORTED)}."
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as cause:  # transformers and huggingface_hub each have their own errors for a faulty field
        raise ModelUnavailable(f"{folder}: config.json is faulty: {cause}", hint="Mend config.json.") from cause
    _refuse_unsupported(config, folder)
    return config


def _refuse_other_weights(info: Any, folder: Path) -> None:
    """What is missing would be random numbers; what is left over says that the configuration is another model's."""
    if absent := sorted(info["missing_keys"]):
        raise ModelUnavailable(f"{folder}: no weights for {absent[0]}, {len(absent)} in all.", hint="Get them all.")
    if misshapen := sorted((name, tuple(there), tuple(wanted)) for name, there, wanted in info["mismatched_keys"]):
        name, there, wanted = misshapen[0]
        raise ModelUnavailable(
            f"{folder}: {name} has the shape {there}, by config.json {wanted}; {len(misshapen)} such weights in all.",
            hint="Take configuration and weights of one model.",
        )
    if surplus := sorted(name for name in info["unexpected_keys"] if not name.endswith("rotary_emb.inv_freq")):
        raise ModelUnavailable(
            f"{folder}: config.json knows no {surplus[0]}, {len(surplus)} such weights in all.",
            hint="Take configuration and weights of one model.",
        )


def _refuse_unsupported(config: Any, folder: Path) -> None:
    activation = activation_of(config)
    kinds = layer_kinds(config)
    window = getattr(config, "sliding_window", None)
    rotary = [part["rope_type"] for part in rotary_parameters(config).values()]
    if getattr(config, "use_bidirectional_attention", False):
        fault, hint = "attention that also looks ahead is not supported", "Take a decoder."
    elif activation not in ACTIVATIONS:
        fault, hint = f"hidden_act {activation!r} is not supported", f"Supported: {', '.join(ACTIVATIONS)}."
    elif unknown := sorted({*rotary} - {*_ROTARY}):
        fault, hint = f"rope_type {unknown[0]!r} is not supported", f"Supported: {', '.join(_ROTARY)}."
    elif unknown := sorted({*kinds} - {*_LAYERS}):
        fault, hint = f"layers of type {unknown[0]!r} are not supported", f"Supported: {', '.join(_LAYERS)}."
    elif len(kinds) != config.num_hidden_layers:
        fault = f"layer_types names {len(kinds)} layers, num_hidden_layers {config.num_hidden_layers}"
        hint = "Mend config.json."
    elif "sliding_attention" in kinds and not (isinstance(window, int) and window > 0):
        fault, hint = f"layer_types has sliding layers, and sliding_window is {window!r}", "Mend config.json."
    elif getattr(config, "num_experts_per_tok", 0) > getattr(config, "num_local_experts", 0):
        fault = f"num_experts_per_tok is {config.num_experts_per_tok}, of {config.num_local_experts} experts"
        hint = "Mend config.json."
    else:
        return
    raise ModelUnavailable(f"{folder}: {fault}.", hint=hint)


def layer_kinds(config: Any) -> list[str]:
    """`full_attention` or `sliding_attention` for each layer."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return list(kinds)
    # Llama has no window, whatever a field says; the others have one in all layers or in none
    windowed = config.model_type != "llama" and getattr(config, "sliding_window", None) is not None
    return ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers


def rotary_parameters(config: Any) -> dict[str, dict[str, Any]]:
    """Rotary settings by kind of layer, where they differ between kinds; else under the empty name."""
    found: dict[str, Any] = config.rope_parameters
    return found if all(isinstance(part, dict) for part in found.values()) else {"": found}


def positions(config: Any) -> int:
    """How many tokens a text may have. Beyond longrope's first length other frequencies would hold for all of it."""
    first = [
        part.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for part in rotary_parameters(config).values()
        if part["rope_type"] == "longrope"
    ]
    return min(int(length) for length in (config.max_position_embeddings, *first) if length)


def shape_of(config: Any) -> Shape:
    """Its sizes. Biases and the norms that only some families have are left out of the count."""
    kinds = layer_kinds(config)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        mlp=config.intermediate_size,
        vocab=config.vocab_size,
        window=config.sliding_window if "sliding_attention" in kinds else 0,
        windowed=kinds.count("sliding_attention"),
        tied=int(config.tie_word_embeddings),
        experts=getattr(config, "num_local_experts", 1),
        chosen=getattr(config, "num_experts_per_tok", 1),
    )


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
