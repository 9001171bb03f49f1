"""The store of prefixes: the keys and values of policy prompts, kept between calls within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from guard.engine.request import Ids


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P tokens in each of L layers, rotated to the positions 0..P-1: (K, P, D) each."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


class PrefixStore:
    """Prefixes by their tokens, the least recently used forgotten first.

    The dictionary finds a prefix by the hash of its tokens and takes it only if all tokens are equal.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[Ids, Prefix] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, tokens: Ids) -> Prefix | None:
        """The prefix, if it is held; it then counts as used."""
        prefix = self._held.get(tokens)
        if prefix is not None:
            self._held.move_to_end(tokens)
        return prefix

    def put(self, tokens: Ids, prefix: Prefix) -> None:
        """Keep a prefix, forgetting others until it fits; one that is larger than the budget is not kept."""
        if prefix.num_bytes > self._budget:
            return
        while self.num_bytes + prefix.num_bytes > self._budget:
            _, old = self._held.popitem(last=False)
            self.num_bytes -= old.num_bytes
        self._held[tokens] = prefix
        self.num_bytes += prefix.num_bytes
