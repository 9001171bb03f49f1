"""The embedded model's shape, and the attention that it is trained with.

A tuning batch is one policy prefix of P tokens and B rows (content, question) of different lengths, laid out as one
row of N tokens without padding, so that every linear layer sees each distinct token once. Attention puts the shape
back: the prefix attends to itself, each row to the prefix and to itself, as the serving engine computes it. Rows come
sorted by length and are padded for attention only, in groups of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        attn_implementation="guard_shared_prefix",
    )
    return MistralForCausalLM(shape)


@dataclass(frozen=True)
class Group:
    """R rows of similar length: where their tokens lie, which of T padded places hold one, and who sees whom."""

    index: Tensor  # (R, T) into the N packed tokens; padding points at the row's last token
    held: Tensor  # (R, T) bool
    bias: Tensor  # (R, 1, T, P + T): 0 where a token of the prefix or of the row is seen, minus infinity elsewhere


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
        seen = (places[:, None] >= places[None])[None] & held[:, None, :]
        bias = torch.zeros(len(part), 1, len(places), prefix + len(places))
        bias[:, 0, :, prefix:].masked_fill_(~seen, float("-inf"))
        groups.append(Group(index, held, bias))
        start += int(part.sum())
    return groups


@dataclass(frozen=True)
class Pack:
    """N ids of a prefix and B rows behind it, the shortest first: ids and positions [N], and where each row begins [B].

    Prefix p and the rows "a b c", "d": p d a b c at the positions 0 1 1 2 3; the rows begin at 2 and 1.
    """

    ids: Tensor
    positions: Tensor
    starts: Tensor
    groups: list[Group]

    @classmethod
    def of(cls, prefix: Sequence[int], rows: list[list[int]]) -> Pack:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        lengths = [len(rows[i]) for i in order]
        ids = [*prefix, *(token for i in order for token in rows[i])]
        positions = [*range(len(prefix)), *(len(prefix) + place for length in lengths for place in range(length))]
        ends = len(prefix) + torch.tensor(lengths).cumsum(0)
        starts = (ends - torch.tensor(lengths))[torch.tensor(order).argsort()]
        return cls(torch.tensor(ids), torch.tensor(positions), starts, layout(len(prefix), lengths))


def packed(model: MistralForCausalLM, prefix: Sequence[int], rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Final states (N, 384) of one prefix and B rows behind it, and where each row begins in them (B)."""
    pack = Pack.of(prefix, rows)
    hidden = model.model(
        input_ids=pack.ids[None], position_ids=pack.positions[None], use_cache=False,
        prefix=len(prefix), groups=pack.groups,
    ).last_hidden_state[0]  # fmt: skip
    return hidden, pack.starts


def shared_prefix_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, *,
    scaling: float, prefix: int, groups: list[Group], **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """q: (1, H, N, D), k and v: (1, K, N, D) -> (1, N, H, D). Below the window: it masks nothing."""
    share = q.shape[1] // k.shape[1]
    q, k, v = q[0], k[0].repeat_interleave(share, dim=0), v[0].repeat_interleave(share, dim=0)  # (H, N, D)
    before, said = k[:, :prefix], v[:, :prefix]
    parts = [sdpa(q[:, :prefix], before, said, is_causal=True, scale=scaling).transpose(0, 1)] if prefix else []
    for group in groups:
        qg, kg, vg = (x[:, group.index].transpose(0, 1) for x in (q, k, v))  # (R, H, T, D)
        kg, vg = (torch.cat([p.expand(len(x), -1, -1, -1), x], 2) for p, x in ((before, kg), (said, vg)))
        out = sdpa(qg, kg, vg, attn_mask=group.bias.to(q.dtype), scale=scaling)
        parts.append(out.transpose(1, 2)[group.held])  # packed again: (tokens, H, D)
    return torch.cat(parts)[None], None


AttentionInterface.register("guard_shared_prefix", torch.compiler.disable(shared_prefix_attention))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register("guard_shared_prefix", lambda *_, **__: None)
