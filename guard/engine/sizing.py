"""What a decoder needs and what it can do at most, on paper: bytes of weights and cache, operations per token.

Plain numbers, no model is loaded. L layers of width d, H query heads over K key-value heads of D numbers, MLP width I,
vocabulary V, windows W; one token's operations are two per weight it meets and 4 H D per token that it attends to.

>>> shape = Shape.parse("layers=32,hidden=4096,heads=32,kv_heads=8,head_size=128,mlp=14336,vocab=32000,window=4096")
>>> f"{shape.weights:,}"  # Mistral 7B
'7,241,732,096'
>>> shape.cache_bytes(1, 2), shape.cache_bytes(8192, 2) == shape.cache_bytes(4096, 2)  # keys and values, 16 bits
(131072, True)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from guard.errors import InvalidRequest

# bytes per weight: int4 with a 16-bit scale and zero point for each group of 64
BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5625}


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `window` holds for `windowed` of the layers (all of them where it is not said)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocab: int
    window: int = 0  # 0: none
    windowed: int = -1
    tied: int = 0  # 1: the output layer is the embedding
    experts: int = 1
    chosen: int = 1  # experts that a token goes through

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From `layers=32,hidden=4096,...`. Raises `InvalidRequest` naming what is wrong."""
        known = [field.name for field in fields(cls)]
        values: dict[str, int] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name.strip() not in known or not value.strip().isdecimal():
                raise InvalidRequest(f"{part!r} is no size of a shape.", hint=f"Sizes: {', '.join(known)}.")
            values[name.strip()] = int(value)
        absent = [name for name in known[:7] if not values.get(name)]
        if absent:
            raise InvalidRequest(f"The shape has no {absent[0]}.", hint=f"It needs {', '.join(known[:7])}.")
        shape = cls(**values)
        if shape.heads % shape.kv_heads or shape.chosen > shape.experts or shape.windowed > shape.layers:
            raise InvalidRequest("The shape contradicts itself.", hint="heads % kv_heads = 0, chosen <= experts.")
        return shape

    @property
    def in_window(self) -> int:
        """Layers that have a window."""
        return 0 if not self.window else self.layers if self.windowed < 0 else self.windowed

    @property
    def _attention(self) -> int:
        return 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)

    @property
    def _mlp(self) -> int:
        return 3 * self.hidden * self.mlp

    @property
    def weights(self) -> int:
        """How many there are, norms included, biases not."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        layer = self._attention + self.experts * self._mlp + router + 2 * self.hidden
        return self.layers * layer + (2 - self.tied) * self.vocab * self.hidden + self.hidden

    @property
    def met(self) -> int:
        """Weights of the layers that one token is multiplied by; the vocabulary's are apart."""
        return self.layers * (self._attention + self.chosen * self._mlp)

    def cache_bytes(self, tokens: int, width: int) -> int:
        """Keys and values of a stream of so many tokens, `width` bytes a number; no more than W in a windowed layer."""
        per_layer = 2 * self.kv_heads * self.head_size * width
        kept = min(tokens, self.window) if self.window else tokens
        return per_layer * (self.in_window * kept + (self.layers - self.in_window) * tokens)

    def operations(self, tokens: int, before: int, read: int) -> int:
        """Of `tokens` behind `before` kept ones, of which `read` are multiplied by the vocabulary."""
        seen = sum(
            count * sum(min(before + place + 1, window or before + tokens) for place in range(tokens))
            for count, window in ((self.in_window, self.window), (self.layers - self.in_window, 0))
        )
        return 2 * self.met * tokens + 4 * self.heads * self.head_size * seen + 2 * read * self.vocab * self.hidden

    def regrouped(self, kv_heads: int, window: int, windowed: int = -1) -> Shape:
        """The same decoder with other key-value heads and another window, in all layers or in some."""
        return replace(self, kv_heads=kv_heads, window=window, windowed=windowed)


# Of the ceiling of the linear layers, what the engine got to on the reference work (docs/performance.md, Scoring).
REACHED = 0.76

# Published configurations, for the tables; `guard plan` reads any other from its checkpoint or from --shape.
KNOWN = {
    "Llama 3.2 1B": Shape(16, 2048, 32, 8, 64, 8192, 128256, tied=1),
    "Llama 3.2 3B": Shape(28, 3072, 24, 8, 128, 8192, 128256, tied=1),
    "Llama 2 7B": Shape(32, 4096, 32, 32, 128, 11008, 32000),
    "Mistral 7B v0.1": Shape(32, 4096, 32, 8, 128, 14336, 32000, window=4096),
    "Mistral 7B v0.3": Shape(32, 4096, 32, 8, 128, 14336, 32768),
    "Llama 3.1 8B": Shape(32, 4096, 32, 8, 128, 14336, 128256),
    "Gemma 2 9B": Shape(42, 3584, 16, 8, 256, 14336, 256000, window=4096, windowed=21, tied=1),
    "Mistral Nemo 12B": Shape(40, 5120, 32, 8, 128, 14336, 131072),
    "Mistral Small 24B": Shape(40, 5120, 32, 8, 128, 32768, 131072),
}


@dataclass(frozen=True)
class Machine:
    """Ceilings measured on one: multiplications of the engine's kind, and bytes read from memory, a second."""

    operations: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """Comments of so many tokens, question included, behind a kept policy of so many."""

    tokens: int
    policy: int


def comments_per_second(shape: Shape, machine: Machine, work: Work, reach: float) -> float:
    """Judged comments: the multiplications decide. `reach`: the share of the ceiling that the engine gets to."""
    return reach * machine.operations / shape.operations(work.tokens, work.policy, read=1)


def tokens_per_second(shape: Shape, machine: Machine, length: int, streams: int, width: float) -> float:
    """Generated at most, by all streams of `length` tokens together: a step reads the weights once and each cache."""
    weights = shape.weights if shape.tied else shape.weights - shape.vocab * shape.hidden
    if shape.experts > 1:  # what many streams choose may be all experts; one stream's are its own
        used = min(shape.experts, shape.chosen * streams)
        weights -= shape.layers * (shape.experts - used) * 3 * shape.hidden * shape.mlp
    return streams * machine.bytes / (weights * width + streams * shape.cache_bytes(length, 2))


def streams_that_fit(shape: Shape, memory: int, length: int, width: float) -> int:
    """Streams of `length` tokens beside the weights in `memory` bytes; -1 where the weights alone do not fit."""
    left = memory - shape.weights * width
    return -1 if left < 0 else int(left // shape.cache_bytes(length, 2))


LENGTHS = (1024, 4096, 8192, 32768)  # tokens of a stream


def report(name: str, shape: Shape, memory: int, machine: Machine, work: Work, reach: float) -> str:
    """What one decoder needs and may do, as Markdown. `memory` in bytes; `reach` as in `comments_per_second`."""
    layers = f"{shape.layers} layers of {shape.hidden}"
    window = f"a window of {shape.window:,} in {shape.in_window} of them" if shape.in_window else "no window"
    heads = f"{shape.heads} query heads over {shape.kv_heads} key-value heads of {shape.head_size}"
    groupings = {"as it is": shape.kv_heads, "multi-head": shape.heads, "multi-query": 1}
    cache = (
        (f"{tokens:,}", *(_size(shape.regrouped(kv_heads, shape.window, shape.windowed).cache_bytes(tokens, 2))
                          for kv_heads in groupings.values()))
        for tokens in (1, *LENGTHS)
    )  # fmt: skip
    fits = [
        (
            form, _size(shape.weights * width),
            *(_fit(streams_that_fit(shape, memory, length, width)) for length in LENGTHS),
            *(f"{tokens_per_second(shape, machine, LENGTHS[0], n, width):,.1f}" for n in (1, 16)),
        )
        for form, width in BYTES.items()
    ]  # fmt: skip
    judged = comments_per_second(shape, machine, work, 1.0)
    return "\n\n".join([
        f"{name}: {shape.weights / 1e9:,.2f} billion weights, {layers}, {heads}, {window}.",
        f"Machine: {machine.operations / 1e9:,.0f} GFLOP/s of products, {machine.bytes / 1e9:,.1f} GB/s from memory.",
        f"Comments of {work.tokens} tokens behind a kept policy of {work.policy}: at most "
        f"{judged:,.1f} a second, {judged * reach:,.1f} at {reach:.0%} of the ceiling.",
        f"Memory of {_size(memory)}: streams of so many tokens that fit beside the weights, and tokens a second at "
        f"most while 1 or 16 streams of {LENGTHS[0]:,} generate:",
        table(("weights", "bytes", *(f"{length:,}" for length in LENGTHS), "1", "16"), fits),
        "Keys and values of a stream in 16 bits:",
        table(("tokens", *(f"{k} ({v})" for k, v in groupings.items())), cache),
    ])  # fmt: skip


def comparison(shapes: dict[str, Shape], length: int, window: int) -> str:
    """Decoders beside each other: the cache of a stream of `length` under every grouping, with and without a window."""
    rows = []
    for name, shape in shapes.items():
        kept = [
            _size(shape.regrouped(heads, width).cache_bytes(length, 2))
            for heads in (shape.heads, shape.kv_heads, 1)
            for width in (0, window)
        ]
        rows.append((name, f"{shape.weights / 1e9:.2f}", _size(shape.weights * 2), _size(shape.cache_bytes(1, 2)),
                     _size(shape.cache_bytes(length, 2)), *kept))  # fmt: skip
    header = ("model", "10⁹ weights", "in 16 bits", "a token", "as it is", *(
        f"{name}, {form}" for name in ("multi-head", "grouped", "multi-query") for form in ("whole", f"W = {window:,}")
    ))  # fmt: skip
    return table(header, rows)


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown, numbers to the right."""
    lines = [f"| {' | '.join(header)} |", "|" + "|".join([" --- ", *(" ---: " for _ in header[1:])]) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _size(count: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f} B"


def _fit(streams: int) -> str:
    return "none" if streams < 0 else f"{streams:,}"
