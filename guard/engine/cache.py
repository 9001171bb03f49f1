"""The store of prefixes: the keys and values of policy prompts, kept between calls within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from guard.engine.attention import Kept
from guard.engine.request import Ids


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P tokens in each of L layers, rotated to the positions 0..P-1."""

    layers: tuple[Kept, ...]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for kept in self.layers for t in kept)


class PrefixStore:
    """Prefixes by their tokens; those that are pinned stay, of the others the least recently used goes first.

    The dictionary finds a prefix by the hash of its tokens and takes it only if all tokens are equal.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[Ids, Prefix] = OrderedDict()
        self._pinned: frozenset[Ids] = frozenset()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def pin(self, prefixes: Collection[Ids]) -> None:
        """Name the prefixes that are never forgotten, in place of those named before; held or not."""
        self._pinned = frozenset(prefixes)

    def get(self, tokens: Ids) -> Prefix | None:
        """The prefix, if it is held; it then counts as used."""
        prefix = self._held.get(tokens)
        if prefix is not None:
            self._held.move_to_end(tokens)
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
        self._held[tokens] = prefix
        self.num_bytes += prefix.num_bytes
        return True
