"""Keys and values that are kept: prefixes in a store, and the rolling buffers of running texts in pages of a pool."""

from __future__ import annotations

import heapq
import math
import weakref
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from guard.engine.attention import Kept
from guard.engine.request import BASE, Ids
from guard.errors import EngineError

PAGE = 128  # slots


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


class Pool:
    """Memory for running texts in pages, which they take as they grow and give back when they end.

    A page holds the keys and values of `page` slots in one layer; `keys` and `values` are (K, pages * page, D). Paged
    memory is Kwon et al. 2023, arXiv 2309.06180, section 4.1. Page 0 is nobody's. On a CPU what no page was ever taken
    of costs nothing: the lowest pages go first, and memory is mapped when it is touched. What was never written is
    zero, because zero is what a masked value is weighed with, and must stay.
    """

    def __init__(
        self, budget: int, kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device, page: int = PAGE
    ) -> None:
        self.page = page
        self.page_bytes = 2 * kv_heads * page * head_size * dtype.itemsize
        self.num_pages = 1 + budget // self.page_bytes
        if device.type == "cuda":  # kernels find their way in a head's slots by 32 bits
            self.num_pages = min(self.num_pages, 2**31 // (page * head_size))
        shape = (kv_heads, self.num_pages * page, head_size)
        self.keys, self.values = (_zeros(shape, dtype, device) for _ in range(2))
        self._untouched = 1  # the first page that was never taken
        self._returned: deque[int] = deque()  # from any thread
        self._used: list[int] = []  # free again; a heap

    @property
    def free_pages(self) -> int:
        """How many could be taken."""
        return self.num_pages - self._untouched + len(self._used) + len(self._returned)

    def take(self, count: int) -> list[int]:
        """Pages, which are now the caller's. Raises `EngineError` where there are not so many."""
        if count > (free := self.free_pages):
            raise EngineError(
                f"The memory for running texts is full: {free} of {self.num_pages - 1} pages are free, {count} needed.",
                hint="Raise memory_mb, or let fewer texts run at once.",
            )
        while self._returned:
            heapq.heappush(self._used, self._returned.popleft())
        again = [heapq.heappop(self._used) for _ in range(min(count, len(self._used)))]
        if again:  # zero times what is no number is none either
            self.values.view(len(self.values), self.num_pages, self.page, -1)[:, again] = 0
        first, self._untouched = self._untouched, self._untouched + count - len(again)
        return [*again, *range(first, self._untouched)]

    def give_back(self, pages: Collection[int]) -> None:
        """Whoever took them does not touch them any more."""
        self._returned.extend(pages)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU not written, as torch's would be, but mapped when it is touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


class Ring:
    """The rolling buffer of a running text in one layer: position p lies in slot p mod W (None: in slot p).

    With W = 4, after six tokens the slots hold the positions

    >>> slots(6, 4, 4).tolist()
    [4, 5, 2, 3]

    Slot s is in the page `pages[s // page]` of the pool.
    """

    def __init__(self, pool: Pool, window: int | None) -> None:
        self._pool, self._window = pool, window
        self.pages: list[int] = []

    def size(self, length: int) -> int:
        """How many slots a text of `length` tokens fills."""
        return min(length, self._window or length)

    def missing(self, length: int) -> int:
        """How many pages a text of `length` tokens needs beside those that are there."""
        return max(0, pages_of(length, self._window, self._pool.page) - len(self.pages))

    def reserve(self, length: int) -> None:
        """Take the pages that a text of `length` tokens needs. Raises `EngineError` where the pool is full."""
        self.pages += self._pool.take(self.missing(length))

    def _places(self, slot: Tensor) -> Tensor:
        """Where slots lie in the pool."""
        pages = torch.tensor(self.pages, device=slot.device)
        return pages[slot // self._pool.page] * self._pool.page + slot % self._pool.page

    def write(self, new: Kept, start: int) -> None:
        """Take in keys and values (K, T, D) of the positions from `start` on, over those that nothing can see again.

        There must be room for them (`reserve`).
        """
        length = new.keys.shape[1]
        dropped = length - self.size(length)
        at = torch.arange(start + dropped, start + length, device=new.keys.device)
        places = self._places(at % self._window if self._window else at)
        for memory, tensor in zip((self._pool.keys, self._pool.values), new, strict=True):
            memory[:, places] = tensor[:, dropped:]

    def held(self, length: int) -> Kept:
        """Keys and values (K, S, D) of a text of `length` tokens, in the order of `positions`."""
        size = self.size(length)
        first, last = self.pages[0], self.pages[-1]
        if self.pages == list(range(first, last + 1)):  # side by side: nothing is copied
            start = first * self._pool.page
            return Kept(*(memory[:, start : start + size] for memory in (self._pool.keys, self._pool.values)))
        places = self._places(torch.arange(size, device=self._pool.keys.device))
        return Kept(*(memory.index_select(1, places) for memory in (self._pool.keys, self._pool.values)))

    def positions(self, length: int) -> Tensor:
        """The position that each filled slot holds (S,), in a text of `length` tokens."""
        return slots(length, self.size(length), self._window)


def pages_of(length: int, window: int | None, page: int) -> int:
    """How many pages of so many slots a text of `length` tokens fills in one layer.

    >>> pages_of(5, None, 4), pages_of(50, 8, 4)
    (2, 2)
    """
    return -(-min(length, window or length) // page)


def slots(length: int, size: int, window: int | None) -> Tensor:
    """See `Ring`: the position that each of the first `size` slots holds."""
    slot = torch.arange(size)
    return slot if window is None else slot + window * ((length - 1 - slot) // window)


class Stream:
    """A running text: its length in tokens, and the keys and values that what comes next can see.

    A question about it is a tree behind it: it reads the buffers and writes nothing, so asking adds nothing to them.
    Its pages go back to the pool when it is closed, or when nothing refers to it any more.
    """

    def __init__(self, pool: Pool, windows: Collection[int | None], adapter: str = BASE) -> None:
        self.rings = [Ring(pool, window) for window in windows]
        self.adapter = adapter
        self.length = 0
        self.broken = False  # an extension failed half-way
        self._pool = pool
        self._pages = [ring.pages for ring in self.rings]
        self._giving_back = weakref.finalize(self, _give_back, pool, self._pages)
        self._giving_back.atexit = False  # the whole pool goes then, and somebody may still be at work

    def reserve(self, length: int) -> None:
        """Take the memory of `length` tokens now, or none of it. Raises `EngineError`."""
        if self.broken:
            raise EngineError("This text has ended.", hint="Begin it anew.")
        missing = [ring.missing(length) for ring in self.rings]
        pages = iter(self._pool.take(sum(missing)))
        for ring, count in zip(self.rings, missing, strict=True):
            ring.pages += islice(pages, count)

    def close(self) -> None:
        """Give its memory back now: nothing may be taken into it or asked about it any more."""
        self.broken = True
        self._giving_back()

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(map(len, self._pages)) * self._pool.page_bytes


def _give_back(pool: Pool, pages: list[list[int]]) -> None:
    for some in pages:
        pool.give_back(some)
        some.clear()
