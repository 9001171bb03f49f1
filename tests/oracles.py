"""Slow, obviously correct counterparts of the fast paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from guard.engine.request import LogProbs, Request, answers


def tiny_mistral(folder: Path, *, window: int | None, seed: int = 0, **shape: Any) -> MistralForCausalLM:
    """A random Mistral of a few thousand weights, saved to `folder`; large weights make attention matter."""
    torch.manual_seed(seed)
    config = MistralConfig(
        **{
            "vocab_size": 61,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "sliding_window": window,
            **shape,
        }
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def full_matrix_logits(model: MistralForCausalLM, ids: list[int]) -> Tensor:
    """Logits (T, V) in float32 from the weights alone: every query against every key, a band mask, no cache."""
    config = model.config
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    length = len(ids)
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = j <= i
    if config.sliding_window is not None:
        seen &= i - j < config.sliding_window

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2).float() / size)
    angle = torch.arange(length)[:, None].float() * frequency  # (T, D / 2)

    def rotate(x: Tensor) -> Tensor:  # (heads, T, D)
        first, second = x[..., : size // 2], x[..., size // 2 :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        h = norm(x, at + "input_layernorm.weight")
        q = (h @ weights[at + "self_attn.q_proj.weight"].T).view(length, heads, size).transpose(0, 1)
        k = (h @ weights[at + "self_attn.k_proj.weight"].T).view(length, kv_heads, size).transpose(0, 1)
        v = (h @ weights[at + "self_attn.v_proj.weight"].T).view(length, kv_heads, size).transpose(0, 1)
        q, k = rotate(q), rotate(k)
        out = torch.empty(heads, length, size)
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = (q[head] @ k[group].T / size**0.5).masked_fill(~seen, float("-inf"))
            out[head] = scores.softmax(-1) @ v[group]
        x = x + out.transpose(0, 1).reshape(length, -1) @ weights[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(h @ weights[at + "mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ weights[at + "mlp.up_proj.weight"].T)) @ weights[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T


def oracle_score(model: MistralForCausalLM, request: Request) -> LogProbs:
    """Each label scored on its own, from the whole sequence, by the full matrix."""
    path = [token for segment in request.segments for token in segment]
    found = []
    for answer in answers(request):
        log_probs = full_matrix_logits(model, [*path, *answer]).log_softmax(-1)
        found.append(sum(float(log_probs[len(path) + i - 1, token]) for i, token in enumerate(answer)))
    return tuple(found)
