"""Attention by torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496): the kernels for CUDA.

The tree and the pages of running texts are masks over blocks of 128 keys; what no query of a block sees is not
computed. On a CPU the same masks are computed without blocks, which is how they are tested.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from guard.engine.attention import Geometry, Kept, Rotary, TorchKernels, rms_norm
from guard.engine.cache import Pool, Stream
from guard.engine.layers import Norm
from guard.engine.tree import Plan
from guard.errors import described

_log = logging.getLogger(__name__)

_BLOCK = 128  # queries


@cache
def _compiled(function: Callable[..., Any], use: str) -> Callable[..., Any]:
    """Trees come in any size, so one kernel serves all; a step has few sizes, and each gets a kernel of its own.

    What is compiled for one use does not count against the other's limit: beyond it torch would silently compute
    attention without blocks.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    apart: Any = {"isolate_recompiles": True}  # missing in torch's own annotations
    compiled: Callable[..., Any] = torch.compile(function, dynamic=use == "tree", **apart)
    return compiled


@dataclass(frozen=True)
class _FlexLayout:
    rows: Tensor
    positions: Tensor  # (N,)
    padded: tuple[Tensor, Tensor]  # which query stands in each place of whole blocks: of all, of those that are read
    masks: tuple[BlockMask, BlockMask]
    longest: int


class FlexKernels(TorchKernels):
    """Keys and values, rotation and what is kept are those of the portable kernels."""

    name = "flex"

    def __init__(self, geometry: Geometry, rotary: Rotary, device: torch.device) -> None:
        super().__init__(geometry, rotary, device)
        self._cap = None if geometry.soft_cap is None else torch.tensor(geometry.soft_cap, device=device)

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        found: Tensor = self._fast(rms_norm, "tree")(x, norm)
        return found

    def layout(self, made: Plan, past: int | Tensor) -> Any:
        before = torch.arange(past) if isinstance(past, int) else past
        window = self.geometry.window or 2**30  # kernels compare in 32 bits
        positions, rows = (torch.tensor(x, dtype=torch.long, device=self._device) for x in (made.positions, made.rows))
        node, end = (torch.tensor(x, dtype=torch.long, device=self._device) for x in descent(made))
        # the past is an ancestor of every node
        key_at = torch.cat([before.to(self._device), positions])
        key_node = torch.cat([torch.zeros_like(before, device=self._device), node])
        key_end = torch.cat([torch.full_like(before, len(made.nodes), device=self._device), end])

        def mask(queries: Tensor, places: Tensor) -> BlockMask:
            at, below = positions[queries[places]], node[queries[places]]

            def seen(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
                near = (key_at[kv] <= at[q]) & (key_at[kv] > at[q] - window)
                return near & (key_node[kv] <= below[q]) & (below[q] < key_end[kv])

            return create_block_mask(seen, None, None, len(places), len(key_at), device=str(self._device))

        everything = torch.arange(len(positions), device=self._device)
        queries = (everything, rows if len(rows) else everything[:1])
        padded = tuple(self._whole_blocks(len(some)) for some in queries)
        masks = tuple(mask(some, places) for some, places in zip(queries, padded, strict=True))
        return _FlexLayout(rows, positions, (padded[0], padded[1]), (masks[0], masks[1]), max(made.positions) + 1)

    def _whole_blocks(self, count: int) -> Tensor:
        """0 to `count` - 1, and the last one again until blocks are full: fewer queries would need other kernels."""
        places = torch.arange(-(-count // _BLOCK) * _BLOCK, device=self._device)
        return places.clamp(max=count - 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Any, before: Kept | None, read_only: bool) -> Tensor:
        at = layout.positions[layout.rows] if read_only else layout.positions
        q, k = (self._rotated(x, where, layout.longest) for x, where in ((q, at), (k, layout.positions)))
        keys, values = k.transpose(0, 1), v.view(k.shape).transpose(0, 1)  # (K, N, D)
        if before is not None:
            keys, values = torch.cat([before.keys, keys], dim=1), torch.cat([before.values, values], dim=1)
        whole = q[layout.padded[read_only]].transpose(0, 1)[None]  # (1, H, M, D)
        found = self._flex("tree", whole, keys[None], values[None], layout.masks[read_only], enable_gqa=True)
        return found[0, :, : len(q)].transpose(0, 1).flatten(1)

    def attend_pages(self, q: Tensor, k: Tensor, v: Tensor, pool: Pool, step: Step, layer: int) -> Tensor:
        """One token of each of N texts: q (N, H D), k and v (N, K D), neither rotated -> (N, H D).

        Keys and values are written into the pool first; each query then visits its own text's pages.
        """
        q, k = (self._rotated(x, step.positions, step.longest) for x in (q, k))
        places = step.places[layer]
        pool.keys[:, places] = k.transpose(0, 1)
        pool.values[:, places] = v.view(k.shape).transpose(0, 1)
        # the heads of a group are its queries, so that a page is read once for all of them
        grouped = q.view(len(q), self.geometry.num_kv_heads, -1, q.shape[-1])  # (N, K, G, D)
        found = self._flex("step", grouped, pool.keys[None], pool.values[None], step.mask(layer, grouped.shape[2]))
        return found.flatten(1)

    def _flex(
        self, use: str, q: Tensor, keys: Tensor, values: Tensor, mask: BlockMask, enable_gqa: bool = False
    ) -> Tensor:
        cap = self._cap

        def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return score if cap is None else cap * torch.tanh(score / cap)

        found: Tensor = self._fast(flex_attention, use)(
            q, keys, values, score_mod=None if cap is None else capped, block_mask=mask, scale=self.geometry.scale,
            enable_gqa=enable_gqa,
        )  # fmt: skip
        return found

    def _fast(self, function: Callable[..., Any], use: str) -> Callable[..., Any]:
        return _compiled(function, use) if self._device.type == "cuda" else function


def descent(made: Plan) -> tuple[list[int], list[int]]:
    """For each packed token its node's number, and the number behind the last of the nodes that descend from it.

    A token is seen from node n if its own node's number is at most n, and n is below its second number:

    >>> from guard.engine.request import Request
    >>> from guard.engine.tree import plan
    >>> made = plan([Request(((1, 1), (4, 5), question), ((7,), (8,)), terminator=2) for question in ((6,), (3,))])
    >>> [(node.start, node.end) for node in made.nodes]  # the content, and two questions behind it
    [(0, 2), (2, 3), (3, 4)]
    >>> descent(made)  # the content is seen from all three, a question from itself
    ([0, 0, 1, 2], [3, 3, 2, 3])
    """
    number = {node.start: i for i, node in enumerate(made.nodes)}
    ends = [i + 1 for i in range(len(made.nodes))]
    for i, node in enumerate(made.nodes):
        for start, _ in node.ancestors:
            ends[number[start]] = i + 1
    owner = [i for i, node in enumerate(made.nodes) for _ in range(node.start, node.end)]
    return owner, [ends[i] for i in owner]


class Step:
    """What one more token of each of N texts needs: tables of fixed sizes, so that a recorded step can read them again.

    `tokens` and `positions` (N,) change with each step. `pages` (L, N, B): the pages of each text and layer. `owner`
    and `turn` (pages of the pool,): whose a page is, as text * L + layer, and the how manyth; `codes` (L, N) has the
    same numbers. A place without a text goes by -1, as does page 0: it sees there what it has written itself.
    """

    def __init__(self, pool: Pool, windows: Sequence[int | None], rows: int, most: int) -> None:
        """For `rows` texts of at most `most` tokens."""
        self._pool, self._layers, self.longest = pool, len(windows), most
        device = pool.keys.device

        def table(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        widest = max(min(most, window or most) for window in windows)
        self.tokens, self.positions = table(rows), table(rows)
        self.pages = table(self._layers, rows, -(-widest // pool.page), dtype=torch.int32)
        self.owner, self.turn = table(pool.num_pages), table(pool.num_pages)
        self._windows = torch.tensor([window or 2**62 for window in windows], device=device)[:, None]
        self.codes = table(self._layers, rows)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recordable = True
        self._texts: list[tuple[weakref.ref[Stream], int]] = []  # that the tables of pages were made for

    def fill(self, streams: Sequence[Stream], tokens: Sequence[int]) -> None:
        """For these texts, each of which has room for one more token."""
        rest = [0] * (len(self.tokens) - len(streams))
        self.tokens.copy_(torch.tensor([*tokens, *rest]))
        self.positions.copy_(torch.tensor([*(stream.length for stream in streams), *rest]))
        texts = [(weakref.ref(stream), stream.num_bytes) for stream in streams]
        if texts == self._texts:
            return
        self._texts = texts
        pages = torch.zeros(self.pages.shape, dtype=torch.int32)
        owner, turn = torch.full(self.owner.shape, -1), torch.zeros(self.turn.shape, dtype=torch.long)
        codes = torch.full(self.codes.shape, -1)
        for row, stream in enumerate(streams):
            for layer, ring in enumerate(stream.rings):
                own = torch.tensor(ring.pages)
                pages[layer, row, : len(own)] = own
                codes[layer, row] = row * self._layers + layer
                owner[own], turn[own] = codes[layer, row], torch.arange(len(own))
        for table, values in ((self.pages, pages), (self.owner, owner), (self.turn, turn), (self.codes, codes)):
            table.copy_(values)

    def played(self, work: Callable[[], Tensor]) -> Tensor:
        """What `work` gives for the tables as they are; recorded the first time, so that it costs one launch."""
        if not self._recordable:
            return work()
        if self._graph is None:
            try:
                self._record(work)
            except Exception as cause:  # no memory, or an operation that cannot be recorded: the step works without
                _log.warning("a step of %d texts is not recorded: %s", len(self.tokens), described(cause))
                self._recordable = False
                return work()
        assert self._graph is not None
        self._graph.replay()
        return self._out.clone()

    def _record(self, work: Callable[[], Tensor]) -> None:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles, and finds its memory; it writes the same numbers each time
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on
            self._out = work()
        self._graph = graph

    def begin(self) -> None:
        """What follows from the tables; part of what is recorded."""
        page = self._pool.page
        slot = self.positions % self._windows  # (L, N)
        number = self.pages.gather(2, (slot // page)[:, :, None])[:, :, 0]
        self.places = number * page + slot % page
        self.held = torch.minimum(self.positions + 1, self._windows)
        self.counts = ((self.held + page - 1) // page).to(torch.int32)

    def mask(self, layer: int, queries: int) -> BlockMask:
        """Which slots of the pool a text's queries see in a layer: those of its own pages that are filled."""
        page, owner, turn, held, codes = self._pool.page, self.owner, self.turn, self.held[layer], self.codes[layer]

        def seen(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            number = kv // page
            return (owner[number] == codes[b]) & (turn[number] * page + kv % page < held[b])

        return BlockMask.from_kv_blocks(
            self.counts[layer][:, None, None], self.pages[layer][:, None, None], BLOCK_SIZE=(_BLOCK, page),
            mask_mod=seen, seq_lengths=(queries, len(owner) * page), compute_q_blocks=False,
        )  # fmt: skip
