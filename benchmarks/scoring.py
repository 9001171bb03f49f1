"""Items a second on the reference work: ours, every peer's and the ceiling of the linear layers, in turns.

`python -m benchmarks.scoring`. Each peer is a process of its own (benchmarks/peers), on the same weights and token ids.
Fails if a peer is missing, if a peer of 16 or 32 bits gives other decisions on more than 2 % of the items (then one of
the two is wrong), or if OpenVINO GenAI is under 8 times `generate` (then the rivals are not at their best).
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.measure import FOLDER, emit, seconds
from benchmarks.peers import setup
from benchmarks.workload import SHAPE, Work, prepare, random_ids
from guard.engine.engine import TorchEngine
from guard.engine.linear import PackedLinear, laid_out
from guard.engine.request import Request
from guard.errors import EngineError

ROUNDS = 3
GENERATE_ITEMS = 32  # of plain `generate`, which has no use for more: it does one at a time
# name in the JSON line -> module and precision
PEERS = {
    "hf-generate": ("hf_generate", "bf16"),
    "hf-prefix-cache": ("hf_prefix_cache", "bf16"),
    "openvino-genai": ("openvino_genai", "bf16"),
    "ctranslate2": ("ctranslate2", None),
    "llama-cpp": ("llama_cpp", "bf16"),
}
INT8 = {
    "openvino-genai": ("openvino_genai", "int8"),
    "ctranslate2": ("ctranslate2", "int8"),
    "llama-cpp": ("llama_cpp", "int8"),
}
LEAST_AGREEMENT, LEAST_RIVAL = 0.98, 8.0


class Peer:
    """A running peer. `about` is None if it did not come up."""

    def __init__(self, module: str, dtype: str | None) -> None:
        command = [setup.ENVIRONMENT / "bin" / "python", "-m", f"benchmarks.peers.{module}", FOLDER]
        self._log = (FOLDER / f"{module}-{dtype}.log").open("w")
        try:
            self._process = subprocess.Popen(
                [*map(str, command), *(["--dtype", dtype] if dtype else [])],
                cwd=setup.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            )  # fmt: skip
            self.about = self._answer()
        except OSError:
            self.about = None

    def run(self, num: int) -> tuple[float, dict[int, int]] | None:
        """Seconds, and decisions by the content's index; None if the peer has died."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"run {num}\n")
            self._process.stdin.flush()
        except OSError:
            return None
        answer = self._answer()
        if answer is None:
            return None
        return answer["seconds"], {int(i): label for i, label in answer["decisions"].items()}

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def stop(self) -> None:
        if self.about is not None and self._process.stdin:
            self._process.stdin.close()
            self._process.wait(60)


def requests(work: Work, contents: Sequence[tuple[int, ...]], questions: Sequence[tuple[int, ...]]) -> list[Request]:
    return [Request((work.policy, c, q), work.labels, 2) for c in contents for q in questions]


def decided(work: Work, engine: TorchEngine) -> dict[int, int]:
    decisions = {}
    for i, found in enumerate(engine.score(requests(work, work.contents, [work.question]))):
        if isinstance(found, EngineError):
            raise found
        decisions[i] = work.labels[found.index(max(found))][0]
    return decisions


def products(num_tokens: int = 2048) -> dict[str, Any]:
    """One layer's linear layers on packed tokens, nothing between them: what the ceiling is made of."""
    d, mlp = int(str(SHAPE["hidden_size"])), int(str(SHAPE["intermediate_size"]))
    kv = 2 * 4 * 64
    shapes = {"qkv": (d + kv, d), "out": (d, d), "gate": (mlp, d), "up": (mlp, d), "down": (d, mlp)}
    made = {}
    for name, (out, inside) in shapes.items():
        layer = laid_out((torch.randn(out, inside) * 0.02).bfloat16())
        x = torch.randn(num_tokens, inside).bfloat16()
        made[name] = partial(layer, x)
    return made


def ceiling(work: Work, num_tokens: int = 2048) -> tuple[float, float]:
    """Items a second if every layer's products of every token were all there is; and if of the last layer only the
    keys and values were computed for every token, as the verdict needs it. Every product at its best of many calls."""
    with torch.inference_mode():
        best = {name: min(seconds(call) for _ in range(25)) / num_tokens for name, call in products(num_tokens).items()}
    layers = int(str(SHAPE["num_hidden_layers"]))
    tokens = sum(map(len, work.contents)) + len(work.question) * len(work.contents)
    whole = layers * sum(best.values())
    needed = whole - (sum(best.values()) - best["qkv"] * 0.4)  # 2 of the 5 heads' worth in `qkv` are keys and values
    return len(work.contents) / (tokens * whole), len(work.contents) / (tokens * needed)


@contextmanager
def timed(owner: Any, names: Sequence[str], into: dict[str, float], part: str) -> Iterator[None]:
    """Adds the time spent in methods of an object or class to `into[part]`."""
    kept = {name: getattr(owner, name) for name in names}

    def wrap(whole: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return whole(*args, **named)
            finally:
                into[part] += time.perf_counter() - start

        return call

    for name, whole in kept.items():
        setattr(owner, name, wrap(whole))
    try:
        yield
    finally:
        for name, whole in kept.items():
            setattr(owner, name, whole)


def parts(work: Work, engine: TorchEngine) -> dict[str, float]:
    """Share of the time in linear layers, attention, norms and everything else."""
    spent = dict.fromkeys(("linear layers", "attention", "norms"), 0.0)
    (kernels,) = engine._model.kernels.values()
    with (
        timed(PackedLinear, ("__call__", "activated", "times", "plus"), spent, "linear layers"),
        timed(kernels, ("attend",), spent, "attention"),
        timed(kernels, ("norm",), spent, "norms"),
    ):
        total = seconds(lambda: decided(work, engine))
    shares = {name: took / total for name, took in spent.items()}
    return {**shares, "planning and the rest": 1 - sum(shares.values())}


def by_length(work: Work, engine: TorchEngine) -> dict[int, float]:
    """Items a second against the tokens of the content."""
    draw, found = random.Random(1), {}
    for length in (8, 16, 32, 64, 128, 256, 400):
        contents = [random_ids(draw, length) for _ in range(max(8, 6000 // (length + 12)))]
        asked = requests(work, contents, [work.question])
        engine.score(asked[:4])
        found[length] = len(contents) / median(seconds(partial(engine.score, asked)) for _ in range(3))
    return found


def main() -> None:
    work = prepare(FOLDER)
    setup.main(FOLDER)
    engine = TorchEngine.load(FOLDER / "checkpoint", dtype="bfloat16")
    running = {name: Peer(*how) for name, how in PEERS.items()}
    running |= {f"{name} int8": Peer(*how) for name, how in INT8.items()}
    alive = {name: peer for name, peer in running.items() if peer.about}
    for name, peer in alive.items():
        print(f"{name}: {peer.about}", flush=True)

    rates: dict[str, list[float]] = {name: [] for name in ("guard", "ceiling", "needed ceiling", *alive)}
    decisions: dict[str, dict[int, int]] = {}
    decided(work, engine)  # the policy is cached from here on, as it is with every peer that can
    for turn in range(ROUNDS):
        start = time.perf_counter()
        decisions["guard"] = decided(work, engine)
        rates["guard"].append(len(work.contents) / (time.perf_counter() - start))
        for name, value in zip(("ceiling", "needed ceiling"), ceiling(work), strict=True):
            rates[name].append(value)
        for name, peer in alive.items():
            num = GENERATE_ITEMS if name == "hf-generate" else len(work.contents)
            answer = peer.run(num)
            if answer:
                rates[name].append(num / answer[0])
                decisions[name] = answer[1]
        print(f"round {turn + 1}: " + ", ".join(f"{n} {r[-1]:.1f}" for n, r in rates.items() if r), flush=True)
    for peer in alive.values():
        peer.stop()

    middle = {name: round(median(found), 1) for name, found in rates.items() if len(found) == ROUNDS}
    ours = decisions["guard"]
    agreement = {
        name: round(sum(ours[i] == label for i, label in found.items()) / len(found), 4)
        for name, found in decisions.items() if name != "guard"
    }  # fmt: skip
    exact = sum(ours[i] == label for i, label in enumerate(work.decisions)) / len(work.decisions)
    peers = {name: middle[name] for name in PEERS if name in middle}
    faults = [f"{name} is missing" for name in running if name not in middle]
    faults += [f"{n} agrees on {agreement[n]}" for n in peers if agreement[n] < LEAST_AGREEMENT]
    if exact < LEAST_AGREEMENT:
        faults.append(f"float32 agrees on {exact}")
    if {"openvino-genai", "hf-generate"} <= peers.keys():
        rival = peers["openvino-genai"] / peers["hf-generate"]
        if rival < LEAST_RIVAL:
            faults.append(f"openvino-genai is {rival:.1f} times hf-generate: crippled")
    emit(
        "scoring",
        faults,
        guard=middle["guard"],
        peers=peers,
        ceiling=middle["ceiling"],
        agreement=agreement,
        agreement_with_float32=round(exact, 4),
        int8={name: middle[f"{name} int8"] for name in INT8 if f"{name} int8" in middle},
        needed_ceiling=middle["needed ceiling"],
        of_ceiling=round(middle["guard"] / middle["ceiling"], 3),
        of_needed_ceiling=round(middle["guard"] / middle["needed ceiling"], 3),
        over_fastest_peer=round(middle["guard"] / max(peers.values()), 2) if peers else None,
        over_hf_generate=round(middle["guard"] / peers["hf-generate"], 1) if "hf-generate" in peers else None,
        parts={name: round(share, 3) for name, share in parts(work, engine).items()},
        by_length={length: round(rate, 1) for length, rate in by_length(work, engine).items()},
        precision={name: peer.about and peer.about["precision"] for name, peer in alive.items()},
        versions={name: peer.about and peer.about["version"] for name, peer in alive.items()},
        settings={name: peer.about and peer.about["settings"] for name, peer in alive.items()},
        kernels=next(iter(engine._model.kernels.values())).name,
    )


if __name__ == "__main__":
    main()
