"""Tiny random checkpoints of every supported family, and token ids to ask them about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

WINDOW = 9
SHAPE = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": 100,
}  # fmt: skip
LOCAL = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

# name -> (model class without "ForCausalLM", its configuration's differences)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "mistral without a window": ("Mistral", {"sliding_window": None}),
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": YARN}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {}),
    "gemma2": (
        "Gemma2",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 11, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 3.0, "layer_types": MIXED, "tie_word_embeddings": True},
    ),
    "gemma3": (
        "Gemma3",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 11, "layer_types": MIXED, "rope_parameters": LOCAL},
    ),
    "phi3": ("Phi3", {"sliding_window": WINDOW}),
    "phi3 rotated in part": (
        "Phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ),
    "phi3 longrope": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 100}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
}  # fmt: skip


def saved(folder: Path, name: str) -> None:
    """A random checkpoint. Biases and norms are random too, so that leaving them out shows."""
    family, differences = FAMILIES[name]
    torch.manual_seed(7)
    kind = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, kind)(**{**SHAPE, **differences})
    built = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter_name, parameter in built.named_parameters():
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    built.save_pretrained(folder)


def ids(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random tokens of the checkpoints' vocabulary, none of them a control token."""
    draw = random.Random(seed)
    return tuple(draw.randrange(3, 61) for _ in range(length))


def furthest(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference between log-probabilities."""
    return max(abs(a - b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True))
