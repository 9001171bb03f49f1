"""What a GPU gives at the shape of a 7B model with random weights: shares of its own ceilings, in the same run.

`python -m benchmarks.gpu` on a machine with CUDA. Comments packed behind a kept policy against the rate of one large
product; generated tokens a second against the rate at which memory is read; 16,384 tokens with a window of 4,096 and
without one; bytes that a text of 32,768 tokens holds. Fails under 65 % of the products, under 80 % of the memory's
rate, or where the window does not save what it should. `--tiny` takes the same way at a toy's size on any machine: it
proves that the way can be taken, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

from benchmarks.measure import emit
from benchmarks.workload import content_lengths
from guard.engine.cache import Stream
from guard.engine.ceilings import measured
from guard.engine.engine import TorchEngine
from guard.engine.model import TreeModel
from guard.engine.request import Ids, Request
from guard.engine.sizing import KNOWN, Shape

LEAST_PRODUCTS, LEAST_MEMORY = 0.65, 0.8
MOST_APART = 0.05  # bfloat16
ROUNDS = 5


@dataclass(frozen=True)
class Size:
    """`long` and `longest`: tokens of the texts with and without a window; `context`: of the texts that grow."""

    shape: Shape
    policy: int
    comments: int
    batch_tokens: int
    context: int
    steps: int
    texts: tuple[int, ...]
    long: int
    longest: int
    memory_bytes: int


FULL = Size(KNOWN["Mistral 7B v0.1"], 430, 512, 16384, 512, 64, (1, 16), 16384, 32768, 24 * 2**30)
TINY = Size(Shape(2, 128, 4, 2, 32, 256, 512, window=256), 40, 8, 512, 20, 3, (1, 3), 600, 1200, 2**25)


def model_of(shape: Shape, device: str, memory_bytes: int, kernels: str = "flex") -> TreeModel:
    """Random weights, made where they stay."""
    config = MistralConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_size,
        max_position_embeddings=32768, sliding_window=shape.window or None, tie_word_embeddings=False,
    )  # fmt: skip
    config.dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        whole = MistralForCausalLM._from_config(config, dtype=config.dtype).eval()
    return TreeModel(whole, "random", kernels, memory_bytes=memory_bytes)


def fastest(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median seconds, after two rounds that compile and record."""
    took = []
    for turn in range(rounds + 2):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        if turn > 1:
            took.append(time.perf_counter() - began)
    return median(took)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ids(draw: random.Random, length: int, shape: Shape) -> Ids:
    return tuple(draw.randrange(100, shape.vocab) for _ in range(length))


def scoring(model: TreeModel, size: Size, peak: float) -> dict[str, float]:
    """Comments a second, and the share of the products' peak that their multiplications make."""
    draw, shape = random.Random(7), size.shape
    policy, question = ids(draw, size.policy, shape), ids(draw, 12, shape)
    lengths = content_lengths(size.comments, 62, 400)
    labels = tuple((token,) for token in range(10, 24))
    asked = [Request((policy, ids(draw, length, shape), question), labels, 2) for length in lengths]
    engine = TorchEngine(model, batch_tokens=size.batch_tokens)
    engine.score(asked[:1])  # the policy is kept
    found: list[Any] = []
    took = fastest(lambda: found.append(engine.score(asked)))
    if failed := [answer for answers in found for answer in answers if not isinstance(answer, tuple)]:
        raise SystemExit(f"{len(failed)} comments were not judged: {failed[0]}")
    done = sum(shape.operations(length + len(question), size.policy, read=1) for length in lengths)
    return {"comments_a_second": size.comments / took, "of_products": done / took / peak}


def decoding(model: TreeModel, size: Size, bandwidth: float) -> dict[str, dict[str, float]]:
    """Tokens a second of texts side by side, and the share of the time that reading weights and caches alone takes."""
    draw, found = random.Random(8), {}
    weights = model.num_bytes + model.head_bytes
    for count in size.texts:
        streams = [model.stream() for _ in range(count)]
        for stream in streams:
            model.extend(stream, ids(draw, size.context, size.shape), size.batch_tokens)

        def steps(streams: list[Any] = streams) -> None:
            for _ in range(size.steps):
                hidden = model.decode(streams, [5] * len(streams))
                model.log_probs(hidden).argmax(-1).tolist()

        took = fastest(steps) / size.steps
        middle = size.steps * ROUNDS // 2  # of the rounds that count
        read = weights + sum(size.shape.cache_bytes(s.length - middle, model.width) for s in streams)
        found[str(count)] = {"tokens_a_second": count / took, "of_memory": read / bandwidth / took}
    return found


def difference(size: Size, device: str) -> float:
    """The largest between the log-probabilities of these kernels and of the portable ones, on two layers: of scored
    comments, and of the next token of texts side by side."""
    shape, found = replace(size.shape, layers=2, window=min(size.shape.window, 256)), []
    for kernels in ("flex", "torch"):
        torch.manual_seed(0)
        model, draw = model_of(shape, device, 2**28, kernels), random.Random(3)
        policy, labels = ids(draw, size.policy, shape), tuple((token,) for token in range(10, 24))
        asked = [Request((policy, ids(draw, n, shape), ids(draw, 12, shape)), labels, 2) for n in (1, 40, 300)]
        answers = torch.tensor(TorchEngine(model, batch_tokens=4096).score(asked))
        streams = [model.stream() for _ in range(3)]
        for n, stream in enumerate(streams):
            model.extend(stream, ids(draw, 100 + 150 * n, shape), 128)
        hidden = [model.decode(streams, [5, 6, 7]) for _ in range(3)][-1]
        found.append(torch.cat([answers.flatten(), model.log_probs(hidden)[:, 10:24].flatten().cpu()]))
    return float((found[0] - found[1]).abs().max())


def window(size: Size, device: str) -> dict[str, Any]:
    """Seconds for a long text and bytes that a longer one holds, with the window and without it."""
    found: dict[str, Any] = {}
    for name, shape in (("window", size.shape), ("full", replace(size.shape, window=0))):
        model = model_of(shape, device, size.memory_bytes)
        text = ids(random.Random(9), size.longest, shape)
        took = fastest(partial(grown, model, text[: size.long], size.shape.window), rounds=3)
        held = grown(model, text, size.shape.window).num_bytes
        found[name] = {"seconds": round(took, 3), "bytes": held}
    return found


def grown(model: TreeModel, text: Ids, chunk: int) -> Stream:
    """A text that was taken in by chunks."""
    stream = model.stream()
    model.extend(stream, text, chunk)
    return stream


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        raise SystemExit("This benchmark needs a GPU; --tiny takes the same way without one.")
    size = TINY if tiny else FULL
    ceilings = measured()
    model = model_of(size.shape, device, size.memory_bytes)
    scored = scoring(model, size, ceilings.operations)
    decoded = decoding(model, size, ceilings.bytes)
    del model
    windowed = window(size, device)
    faults = []
    if (apart := difference(size, device)) > MOST_APART:
        faults.append(f"log-probabilities are {apart:.3f} from those of the portable kernels")
    if not tiny and scored["of_products"] < LEAST_PRODUCTS:
        faults.append(f"scoring reaches {scored['of_products']:.0%} of the products' peak")
    for count, case in decoded.items():
        if not tiny and case["of_memory"] < LEAST_MEMORY:
            faults.append(f"{count} texts grow at {case['of_memory']:.0%} of the memory's rate")
    share = windowed["window"]["bytes"] / windowed["full"]["bytes"]
    if share > 1.1 * size.shape.window / size.longest:
        faults.append(f"with the window {size.longest} tokens hold {share:.3f} of what they hold without")
    emit(
        "gpu", faults, device=torch.cuda.get_device_name() if device == "cuda" else "none", tiny=tiny,
        peak_tflops=round(ceilings.operations / 1e12, 1), memory_gbytes=round(ceilings.bytes / 1e9, 1),
        difference=apart, scoring=scored, decoding=decoded, windowed=windowed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
