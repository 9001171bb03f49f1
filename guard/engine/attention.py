"""Grouped-query attention over the tree, with the sliding window: what it is, and its portable form on torch.

Every linear layer sees the packed tokens once; only here do they become paths again. What is seen is a matter of
absolute positions alone: key position <= query position, and key position > query position - W. The other form, for
the CPU, is `native.py`; both are `Kernels`, and tests hold both to the same oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from guard.engine.layers import Norm
from guard.engine.tree import Piece, Plan, groups, pieces


@dataclass(frozen=True)
class Geometry:
    """H query heads over K key-value heads of D numbers, W keys including self (None: all), the softmax's scale.

    `soft_cap`: c tanh(score / c) stands in place of a score (Gemma 2; Gemma team 2024, arXiv 2408.00118, section 2).
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    window: int | None
    scale: float
    soft_cap: float | None = None


class Kept(NamedTuple):
    """Keys (rotated) and values of a prefix in one layer, in the layout of the kernels that made them."""

    keys: Tensor
    values: Tensor


class Rotary:
    """Cosines and sines of rotary positions, (positions, F) in float32; the tables grow as they are needed.

    F is D / 2, or less where only the first 2 F numbers of a head are rotated (Phi-3).
    """

    def __init__(self, frequencies: Tensor, factor: float = 1.0) -> None:
        self._frequencies, self._factor = frequencies.float(), factor
        self.size = 2 * len(frequencies)
        self._tables = (torch.empty(0), torch.empty(0))

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Tables that reach at least to position `length` - 1."""
        if len(self._tables[0]) < length:
            positions = torch.arange(2 ** (length - 1).bit_length(), device=self._frequencies.device)
            angles = positions[:, None].float() * self._frequencies
            self._tables = (angles.cos() * self._factor, angles.sin() * self._factor)
        return self._tables


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """RMS norm of (N, d), computed in float32."""
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * norm.weight.float()).to(x.dtype)


class Layout(Protocol):
    """A plan as some kernels need it: made once, used by all layers."""

    @property
    def rows(self) -> Tensor:
        """(R,) the packed tokens that are read."""
        ...


L = TypeVar("L", bound=Layout)


class Kernels(Protocol[L]):
    """What a forward pass needs besides its linear layers."""

    name: str
    geometry: Geometry

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """RMS norm of (N, d), computed in float32."""
        ...

    def layout(self, made: Plan, past: int | Tensor) -> L:
        """`past`: how many keys at the positions 0, 1, ... come before, or the positions of those that do."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: L, before: Kept | None, read_only: bool) -> Tensor:
        """q (M, H D), k and v (N, K D), neither rotated -> (M, H D). M is N, or R if `read_only`."""
        ...

    def keep(self, k: Tensor, v: Tensor) -> Kept:
        """Keys and values of the P tokens of a prefix, (P, K D) each, rotated to the positions 0..P-1."""
        ...


@dataclass(frozen=True)
class _Group:
    """R pieces padded to T queries and S own keys; P keys of the past come before them.

    rows: (R, T) into the M queries, keys: (R, S) into the N packed tokens, held: (R, T) true where a query is no
    padding, seen: (R, T, P + S) true where a query attends to a key.
    """

    rows: Tensor
    keys: Tensor
    held: Tensor
    seen: Tensor


@dataclass(frozen=True)
class _TorchLayout:
    rows: Tensor
    positions: Tensor  # (N,)
    groups: tuple[list[_Group], list[_Group]]  # of all queries, of those that are read
    past: slice  # of its keys, those that anything can see
    longest: int  # path, past included


_MOST_QUERIES = 256  # of a piece
_PAIRS = 2**19  # of a query and a key that are met at once: what the scores of all heads take at the peak


class TorchKernels:
    """On any device: pieces of similar length are padded to one, and two products meet the past and their own keys."""

    name = "torch"

    def __init__(self, geometry: Geometry, rotary: Rotary, device: torch.device) -> None:
        self.geometry, self._rotary, self._device = geometry, rotary, device

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        return rms_norm(x, norm)

    def layout(self, made: Plan, past: int | Tensor) -> _TorchLayout:
        window = self.geometry.window
        if isinstance(past, int):
            first = max(0, min(made.positions) - window + 1) if window else 0
            seen = slice(min(first, past), past)
            past_positions = torch.arange(seen.start, seen.stop)
        else:
            seen, past_positions = slice(0, len(past)), past

        longest = _PAIRS // (len(past_positions) + len(made.tokens))

        def grouped(read_only: bool) -> list[_Group]:
            parts = pieces(made, window, read_only, longest=min(_MOST_QUERIES, max(1, longest)))
            found = groups(parts, past=len(past_positions), most=_PAIRS)
            return [_pad(group, past_positions, window, self._device) for group in found]

        rows, positions = (torch.tensor(x, dtype=torch.long, device=self._device) for x in (made.rows, made.positions))
        return _TorchLayout(rows, positions, (grouped(False), grouped(True)), seen, max(made.positions) + 1)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, layout: _TorchLayout, before: Kept | None, read_only: bool
    ) -> Tensor:
        heads, size = self.geometry.num_kv_heads, self.geometry.head_size
        query_positions = layout.positions[layout.rows] if read_only else layout.positions
        q, k = (self._rotated(x, at, layout.longest) for x, at in ((q, query_positions), (k, layout.positions)))
        v = v.view(len(v), heads, size)
        out = torch.empty_like(q)
        # products of bfloat16 are rounded before the softmax, and differently in other company
        wide = torch.float32 if q.device.type == "cpu" else q.dtype
        past = before and Kept(*(kept[:, layout.past].to(wide) for kept in before))
        past = past if past and past.keys.shape[1] else None  # all of it may lie outside the window
        for group in layout.groups[read_only]:
            found = self._attention(
                q[group.rows].to(wide), k[group.keys].to(wide), v[group.keys].to(wide), past, group.seen
            )
            out[group.rows[group.held]] = found[group.held].to(q.dtype)
        return out.flatten(1)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, past: Kept | None, seen: Tensor) -> Tensor:
        """q (R, T, H, D), k and v (R, S, K, D), past (K, P, D), seen (R, T, P + S) -> (R, T, H, D).

        The past is the same for all rows, so one product meets it, and nothing of it is copied per row or head.
        """
        rows, length, heads, size = q.shape
        kv_heads, cap = k.shape[2], self.geometry.soft_cap
        grouped = (kv_heads, rows, heads // kv_heads, length)
        q = q.view(rows, length, kv_heads, -1, size).permute(2, 0, 3, 1, 4)  # (K, R, G, T, D)
        scores = (q.reshape(kv_heads, rows, -1, size) @ k.permute(2, 0, 3, 1)).view(*grouped, -1)
        if past is not None:
            met = (q.reshape(kv_heads, -1, size) @ past.keys.transpose(1, 2)).view(*grouped, -1)
            scores = torch.cat([met, scores], dim=-1)
        scores = scores.float() * self.geometry.scale
        if cap is not None:
            scores = cap * (scores / cap).tanh()
        weights = scores.masked_fill_(~seen[:, None], float("-inf")).softmax(-1).to(v.dtype)
        held = 0 if past is None else past.keys.shape[1]
        out = weights[..., held:].reshape(kv_heads, rows, -1, k.shape[1]) @ v.permute(2, 0, 1, 3)
        if past is not None:
            out = out + (weights[..., :held].reshape(kv_heads, -1, held) @ past.values).view_as(out)
        return out.view(*grouped, size).permute(1, 3, 0, 2, 4).flatten(2, 3)

    def keep(self, k: Tensor, v: Tensor, start: int = 0) -> Kept:
        keys = self._rotated(k, torch.arange(start, start + len(k), device=k.device), start + len(k))
        values = v.view(len(v), -1, self.geometry.head_size)
        return Kept(keys.transpose(0, 1).contiguous(), values.transpose(0, 1).contiguous())  # (K, P, D)

    def _rotated(self, x: Tensor, positions: Tensor, length: int) -> Tensor:
        """RoPE (Su et al. 2021, arXiv 2104.09864) by halves: (N, heads D) -> (N, heads, D). Positions < `length`."""
        cos, sin = (table[positions][:, None] for table in self._rotary.tables(length))
        x = x.view(len(x), -1, self.geometry.head_size)
        first, second = x[..., : self._rotary.size].float().chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
        return turned if self._rotary.size == x.shape[-1] else torch.cat([turned, x[..., self._rotary.size :]], dim=-1)


def _pad(group: Sequence[Piece], past: Tensor, window: int | None, device: torch.device) -> _Group:
    """`past`: the positions (P,) of the keys that all pieces share; negative where a slot is empty."""
    rows, held = _padded([list(piece.rows) for piece in group])
    keys, is_key = _padded([piece.keys for piece in group])
    query_positions = torch.tensor([piece.positions.start for piece in group])[:, None] + torch.arange(rows.shape[1])
    own_positions = torch.tensor([piece.first_key for piece in group])[:, None] + torch.arange(keys.shape[1])
    past_positions = past.expand(len(group), -1)
    key_positions = torch.cat([past_positions, own_positions], dim=1)[:, None]  # (R, 1, P + S)
    real = torch.cat([past_positions >= 0, is_key], dim=1)[:, None]
    seen = real & (key_positions <= query_positions[:, :, None])
    if window is not None:
        seen &= key_positions > query_positions[:, :, None] - window
    seen |= ~held[:, :, None]  # a padding query sees everything, so that its softmax is defined
    return _Group(*(tensor.to(device) for tensor in (rows, keys, held, seen)))


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(R, longest) with each row's last index repeated behind its end, and a mask of what is no padding."""
    longest = max(map(len, rows))
    index = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
    return index, torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
