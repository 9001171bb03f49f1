"""Keys and values that are kept: prefixes in a store, and the rolling buffer of a stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from guard.engine.attention import Kept
from guard.engine.request import BASE, Ids


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P tokens in each of L layers, rotated to the positions 0..P-1."""

    layers: tuple[Kept, ...]
    adapter: str = BASE  # under which they were computed, and so must be what comes behind them

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for kept in self.layers for t in kept)


class PrefixStore:
    """Prefixes by tokens and adapter; those that are pinned stay, of the others the least recently used goes first.

    The dictionary finds a prefix by the hash of its tokens and takes it only if all tokens are equal. An adapter has
    keys and values of its own.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[tuple[str, Ids], Prefix] = OrderedDict()
        self._pinned: frozenset[tuple[str, Ids]] = frozenset()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def pin(self, prefixes: Collection[Ids]) -> None:
        """Name the prefixes, without an adapter, that are never forgotten, in place of those before; held or not."""
        self._pinned = frozenset((BASE, tokens) for tokens in prefixes)

    def get(self, tokens: Ids, adapter: str = BASE) -> Prefix | None:
        """The prefix, if it is held; it then counts as used."""
        prefix = self._held.get((adapter, tokens))
        if prefix is not None:
            self._held.move_to_end((adapter, tokens))
        return prefix

    def put(self, tokens: Ids, prefix: Prefix) -> bool:
        """Keep a prefix, forgetting others until it fits. False, and nothing forgotten, where it cannot fit."""
        pinned = sum(held.num_bytes for key, held in self._held.items() if key in self._pinned)
        if pinned + prefix.num_bytes > self._budget:
            return False
        for key in [key for key in self._held if key not in self._pinned]:
            if self.num_bytes + prefix.num_bytes <= self._budget:
                break
            self.num_bytes -= self._held.pop(key).num_bytes
        self._held[prefix.adapter, tokens] = prefix
        self.num_bytes += prefix.num_bytes
        return True


class Ring:
    """The rolling buffer of a stream in one layer: the key at position p lies in slot p mod W (None: in slot p).

    With W = 4, after six tokens the slots hold the positions

    >>> slots(6, 4, 4).tolist()
    [4, 5, 2, 3]

    and after three, of which the buffer has grown to four slots, the last is empty:

    >>> slots(3, 4, 4).tolist()
    [0, 1, 2, -1]
    """

    def __init__(self, window: int | None, most: int | None = None) -> None:
        """`most`: tokens that the stream will ever have, where that is known; no more room is made than for those."""
        self._window, self._most = window, most
        self.kept: Kept | None = None

    def write(self, new: Kept, start: int) -> None:
        """Take in keys and values (K, T, D) of the positions from `start` on, over those that nothing can see again."""
        size = new.keys.shape[1]
        dropped = max(0, size - self._window) if self._window else 0
        end = start + size
        at = torch.arange(start + dropped, end, device=new.keys.device)
        slot = at % self._window if self._window else at
        self.kept = Kept(*(self._grown(i, tensor, end) for i, tensor in enumerate(new)))
        for held, tensor in zip(self.kept, new, strict=True):
            held[:, slot] = tensor[:, dropped:]

    def _grown(self, which: int, like: Tensor, length: int) -> Tensor:
        """The buffer, with room for a stream of `length`: twice the room it had, within what can ever be needed."""
        held = None if self.kept is None else self.kept[which]
        had = 0 if held is None else held.shape[1]
        needed = min(length, self._window or length)
        if held is not None and needed <= had:
            return held
        room = max(needed, min(filter(None, (2 * had or needed, self._window, self._most))))
        grown = torch.zeros(like.shape[0], room, like.shape[2], dtype=like.dtype, device=like.device)
        if held is not None:
            grown[:, :had] = held
        return grown

    def positions(self, length: int) -> Tensor:
        """The position that each slot holds (S,), in a stream of `length` tokens; negative: none."""
        return slots(length, 0 if self.kept is None else self.kept.keys.shape[1], self._window)


def slots(length: int, room: int, window: int | None) -> Tensor:
    """See `Ring`: the position that each of `room` slots holds, or a negative number."""
    slot = torch.arange(room)
    if window is None:
        return torch.where(slot < length, slot, -1)
    return slot + window * ((length - 1 - slot) // window).clamp(min=-1) if length else slot - room


class Stream:
    """A running text: its length in tokens, and the keys and values that what comes next can see.

    A question about it is a tree behind it: it reads the buffers and writes nothing, so asking copies nothing.
    """

    def __init__(self, rings: list[Ring], adapter: str = BASE) -> None:
        self.rings = rings
        self.adapter = adapter
        self.length = 0
        self.broken = False  # an extension failed half-way

    @property
    def num_bytes(self) -> int:
        """Memory held between calls."""
        return sum(t.numel() * t.element_size() for ring in self.rings if ring.kept for t in ring.kept)
