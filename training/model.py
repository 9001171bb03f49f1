"""The embedded model's shape, and the attention that it is trained with.

A tuning batch is one policy prefix of P tokens and B rows (content, question) of different lengths, laid out as one
row of N tokens without padding, so that every linear layer sees each distinct token once. Attention puts the shape
back: the prefix attends to itself, each row to the prefix and to itself, as the serving engine computes it. Rows come
sorted by length and are padded for attention only, in groups of similar length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, AttentionMaskInterface, MistralConfig, MistralForCausalLM

from training.config import Config


def build(config: Config) -> MistralForCausalLM:
    """A randomly initialised model of the configured shape, in float32."""
    torch.manual_seed(config.seed)
    shape = MistralConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.hidden_size // config.num_heads,
        max_position_embeddings=config.max_positions,
        sliding_window=config.sliding_window,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="guard_shared_prefix",
    )
    return MistralForCausalLM(shape)


@dataclass(frozen=True)
class Group:
    """R rows of similar length: where their tokens lie, which of T padded places hold one, and who sees whom."""

    index: Tensor  # (R, T) into the N packed tokens; padding points at the row's last token
    held: Tensor  # (R, T) bool
    mask: Tensor | None  # (R, 1, T, P + T) bool; None: plain causal rows without prefix


def layout(prefix: int, lengths: list[int], per_group: int = 16) -> list[Group]:
    """Groups of rows that lie one behind the other after the prefix. `lengths` must be ascending."""
    groups: list[Group] = []
    start = prefix
    for first in range(0, len(lengths), per_group):
        part = torch.tensor(lengths[first : first + per_group])
        starts = start + part.cumsum(0) - part
        places = torch.arange(int(part.max()))
        held = places[None] < part[:, None]
        index = starts[:, None] + torch.minimum(places[None], part[:, None] - 1)
        causal = (places[:, None] >= places[None])[None] & held[:, None, :]
        seen = torch.ones(len(part), len(places), prefix, dtype=torch.bool)
        groups.append(Group(index, held, torch.cat([seen, causal], dim=2)[:, None] if prefix else None))
        start += int(part.sum())
    return groups


def shared_prefix_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, *,
    scaling: float, prefix: int, groups: list[Group], **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """q: (1, H, N, D), k and v: (1, K, N, D) -> (1, N, H, D). Below the window: it masks nothing."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
    parts: list[Tensor] = []
    if prefix:
        own = sdpa(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], is_causal=True, scale=scaling)
        parts.append(own[0].transpose(0, 1))
    for group in groups:
        rows = len(group.index)
        qg, kg, vg = (x[0][:, group.index].transpose(0, 1) for x in (q, k, v))  # (R, H, T, D)
        if prefix:
            kg = torch.cat([k[:, :, :prefix].expand(rows, -1, -1, -1), kg], dim=2)
            vg = torch.cat([v[:, :, :prefix].expand(rows, -1, -1, -1), vg], dim=2)
        out = sdpa(qg, kg, vg, attn_mask=group.mask, is_causal=group.mask is None, scale=scaling)
        parts.append(out.transpose(1, 2)[group.held])  # packed again: (tokens, H, D)
    return torch.cat(parts)[None], None


AttentionInterface.register("guard_shared_prefix", shared_prefix_attention)
AttentionMaskInterface.register("guard_shared_prefix", lambda *_, **__: None)
