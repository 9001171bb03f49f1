"""What fewer bits and an adapter cost: bytes, speed, and agreement with the full weights, on the embedded model.

`python -m benchmarks.weights`. The 240 comments that ship, from text to verdict, the first 40 of them timed in turns; a
decision or a score is compared with that of the full weights in the same precision of activations. The adapter is LoRA
of rank 8 on every matrix with random A and B, beside the same weights merged. Fails if int8 moves a score by more than
.05, or if the adapter flips more than one decision in a hundred that the merged weights make.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.measure import emit, in_turns
from benchmarks.peers.setup import ROOT
from guard import Moderator
from guard.engine import adapters
from guard.engine.engine import TorchEngine
from guard.engine.request import Ids, LogProbs, Request
from guard.errors import EngineError
from guard.loading import folder_of
from guard.settings import load_settings
from guard.verdict import Verdict

POLICY, ROUNDS, RANK, NAME = "forum-comments", 3, 8, "random"
TIMED = 40  # comments
MOST_MOVED, MOST_FLIPPED = 0.05, 0.01
MATRICES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


@dataclass
class Under:
    """An engine under an adapter."""

    engine: TorchEngine
    adapter: str

    def __post_init__(self) -> None:
        self.model_id, self.max_tokens = self.engine.model_id, self.engine.max_tokens
        self.vocab_size = self.engine.vocab_size

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        return self.engine.score([replace(request, adapter=self.adapter) for request in requests])

    def pin(self, prefixes: Sequence[Ids]) -> None:
        self.engine.pin(prefixes)

    def check(self) -> None:
        self.engine.check()


def random_adapter(base: Path, folder: Path) -> tuple[Path, Path]:
    """An adapter for the model in `base`, and the two merged."""
    torch.manual_seed(0)
    weights = load_file(base / "model.safetensors")
    merged, tensors = dict(weights), {}
    for key, weight in weights.items():
        if not any(f".{part}.{name}.weight" in key for part, names in MATRICES.items() for name in names):
            continue
        down = torch.randn(RANK, weight.shape[1]) / weight.shape[1] ** 0.5
        up = torch.randn(len(weight), RANK) * weight.float().std()
        merged[key] = (weight.float() + up @ down).to(weight.dtype)
        for letter, tensor in (("A", down), ("B", up)):
            tensors[f"base_model.model.{key.removesuffix('.weight')}.lora_{letter}.weight"] = tensor
    adapter, whole = folder / "adapter", folder / "merged"
    adapter.mkdir()
    save_file(tensors, adapter / adapters.WEIGHTS)
    (adapter / adapters.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}))
    shutil.copytree(base, whole)
    save_file(merged, whole / "model.safetensors", metadata={"format": "pt"})
    return adapter, whole


def main() -> None:
    with (ROOT / "examples" / "forum_comments.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    base = folder_of("embedded")
    with tempfile.TemporaryDirectory() as folder:
        adapter, merged = random_adapter(base, Path(folder))
        engines = {kind: TorchEngine.load(base, weights=kind) for kind in ("full", "int8", "int4", "nf4")}
        moderators = {kind: Moderator.load(load_settings(weights=kind)) for kind in engines}
        engines["adapter"] = TorchEngine.load(base, adapters={NAME: adapter})
        moderators["adapter"] = Moderator.load()
        moderators["adapter"].engine = Under(engines["adapter"], NAME)
        moderators["merged"] = Moderator.load(load_settings(model=str(merged)))
    tasks = {kind: [m.task(text, policy=POLICY) for text in texts] for kind, m in moderators.items()}
    found = {kind: moderators[kind].judge_many(tasks[kind]) for kind in moderators}
    works = {kind: partial(moderator.judge_many, tasks[kind][:TIMED]) for kind, moderator in moderators.items()}
    took = in_turns(works, ROUNDS)
    cases: dict[str, dict[str, float]] = {}
    for kind, engine in engines.items():
        against = "merged" if kind == "adapter" else "full"
        cases[kind] = {
            "bytes": engine._model.num_bytes,
            "speed": round(took[against] / took[kind], 2),
            **agreement(found[against], found[kind]),
        }
        print(kind, cases[kind], flush=True)
    faults = []
    if cases["int8"]["moved_most"] > MOST_MOVED:
        faults.append(f"int8 moves a score by {cases['int8']['moved_most']}")
    if 1 - cases["adapter"]["same"] > MOST_FLIPPED:
        faults.append(f"the adapter decides as the merged weights in {cases['adapter']['same']:.1%}")
    rate = round(TIMED / took["full"], 1)
    emit("weights", faults, comments=len(texts), policy=POLICY, rank=RANK, full_a_second=rate, cases=cases)


def agreement(before: Sequence[Verdict], after: Sequence[Verdict]) -> dict[str, float]:
    """Share of equal decisions, and how far scores move on average and at most."""
    moved = [abs((a.score or 0.0) - (b.score or 0.0)) for a, b in zip(before, after, strict=True)]
    same = sum(a.decision == b.decision for a, b in zip(before, after, strict=True)) / len(moved)
    mean = sum(moved) / len(moved)
    return {"same": round(same, 4), "moved_mean": round(mean, 4), "moved_most": round(max(moved), 4)}


if __name__ == "__main__":
    main()
