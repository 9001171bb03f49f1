"""Grouped-query attention over the tree, with the sliding window; registered with transformers as `guard_tree`.

Every linear layer sees the packed tokens once. Only here is their shape put back: nodes of similar size are padded to
a common one, and each attends to the shared prefix, to its ancestors and to itself. What is seen is a matter of
absolute positions alone: key position <= query position, and key position > query position - W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from guard.engine.cache import Prefix
from guard.engine.tree import Node, Plan, groups


@dataclass(frozen=True)
class Group:
    """R nodes padded to T queries and S own keys (P prefix keys come before them).

    queries: (R, T) into the N packed tokens, keys: (R, S) likewise, held: (R, T) true where a query is no padding,
    seen: (R, 1, T, P + S) true where a query attends to a key.
    """

    queries: Tensor
    keys: Tensor
    held: Tensor
    seen: Tensor


@dataclass
class Batch:
    """What the attention of one forward pass needs. `captured` collects each layer's keys and values if asked to."""

    prefix: Prefix | None
    groups: list[Group]
    order: Tensor  # (N,): where in the groups' concatenated outputs each packed token is
    captured: list[tuple[Tensor, Tensor]] | None = None


def prepare(
    made: Plan, prefix: Prefix | None, prefix_length: int, window: int | None, device: torch.device | str,
    capture: bool = False,
) -> Batch:  # fmt: skip
    """Index and mask tensors of a plan, made once and used by all layers."""
    positions = torch.tensor(made.positions)
    padded = [_group(group, positions, prefix_length, window) for group in groups(made.nodes)]
    laid = torch.cat([group.queries[group.held] for group in padded])
    moved = [Group(*(t.to(device) for t in (g.queries, g.keys, g.held, g.seen))) for g in padded]
    return Batch(prefix, moved, laid.argsort().to(device), [] if capture else None)


def _group(nodes: Sequence[Node], positions: Tensor, prefix_length: int, window: int | None) -> Group:
    queries, held = _pad([list(range(node.start, node.end)) for node in nodes])
    keys, is_key = _pad([node.keys for node in nodes])
    prefix_positions = torch.arange(prefix_length).expand(len(nodes), -1)
    key_positions = torch.cat([prefix_positions, positions[keys]], dim=1)[:, None]  # (R, 1, P + S)
    real = torch.cat([torch.ones_like(prefix_positions, dtype=torch.bool), is_key], dim=1)[:, None]
    query_positions = positions[queries][:, :, None]  # (R, T, 1)
    seen = real & (key_positions <= query_positions)
    if window is not None:
        seen &= key_positions > query_positions - window
    return Group(queries, keys, held, seen[:, None])


def _pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(R, longest) with each row's last index repeated behind its end, and a mask of what is no padding."""
    longest = max(map(len, rows))
    index = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
    held = torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
    return index, held


def tree_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, tree: Batch, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query: (1, H, N, D), key and value: (1, K, N, D) -> (1, N, H, D)."""
    if tree.captured is not None:
        tree.captured.append((key[0], value[0]))
    share = query.shape[1] // key.shape[1]
    prefix = tree.prefix
    k_before, v_before = (prefix.keys[module.layer_idx], prefix.values[module.layer_idx]) if prefix else (None, None)
    outputs: list[Tensor] = []
    for group in tree.groups:
        q = query[0][:, group.queries].transpose(0, 1)  # (R, H, T, D)
        k, v = _keys(key[0], k_before, group, share), _keys(value[0], v_before, group, share)
        out = scaled_dot_product_attention(q, k, v, attn_mask=group.seen, scale=scaling)
        outputs.append(out.transpose(1, 2)[group.held])  # (tokens of the group, H, D)
    return torch.cat(outputs)[tree.order][None], None


def _keys(packed: Tensor, before: Tensor | None, group: Group, share: int) -> Tensor:
    """(K, N, D) -> (R, H, P + S, D): the prefix, then the rows' own keys (or values), one copy per query head."""
    own = packed[:, group.keys].transpose(0, 1)  # (R, K, S, D)
    if before is not None:
        own = torch.cat([before.expand(len(own), -1, -1, -1), own], dim=2)
    return own.repeat_interleave(share, dim=1)


AttentionInterface.register("guard_tree", tree_attention)
# Without a mask function of its own, transformers would build (or silently drop) a causal mask for the packed row.
AttentionMaskInterface.register("guard_tree", lambda *_, **__: None)
