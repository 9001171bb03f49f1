"""The one configuration of the embedded model's training: sizes, budgets, seeds, folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.item import Kind
from guard.policy import Policy, PolicyBook

ROOT = Path(__file__).resolve().parent.parent

# What the model is trained to be asked: the kinds of items and the shipped policies, in a fixed order.
KINDS = (Kind.PROMPT, Kind.ANSWER, Kind.COMMENT)
POLICIES = ("forum-comments", "mistral-11", "mistral-9", "moderation-13", "refusal", "self-reflection")


def trained_policies() -> list[Policy]:
    """The policies that are trained, in that order."""
    book = PolicyBook()
    return [book.get(name) for name in POLICIES]


@dataclass(frozen=True)
class Config:
    """`data` holds the public sets (see training/README.md), `work` the intermediate files, `out` the checkpoint."""

    data: Path = Path(os.environ.get("GUARD_TRAINING_DATA", ROOT.parent / "shared" / "data"))
    authored: Path = ROOT / "training" / "authored"
    work: Path = ROOT / "training" / "work"
    out: Path = ROOT / "models" / "embedded"
    manifest: Path = ROOT / "training" / "work" / "manifest.json"
    root: Path = ROOT

    seed: int = 20261121

    # shape: Mistral, small
    vocab_size: int = 20480
    hidden_size: int = 384
    num_layers: int = 6
    num_heads: int = 12
    num_kv_heads: int = 6
    intermediate_size: int = 1536
    sliding_window: int = 1024
    max_positions: int = 8192

    # budgets
    transplant_texts: int = 1000
    distil_steps: int = 300
    distil_rows: int = 64
    tune_steps: int = 1300
    tune_rows: int = 32
    tune_policies: int = 2
    content_tokens: int = 144
    distil_learning_rate: float = 5e-4
    tune_learning_rate: float = 1.5e-4
    checkpoint_minutes: float = 4.0

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder; `export` copies it beside the weights, so that `out` never holds half a model."""
        return self.work / "tokenizer"


# What two cores do in some hours, and what a GPU would be given. The latter has not been run.
BUDGETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "transplant_texts": 6000,
        "distil_steps": 60_000,
        "distil_rows": 256,
        "tune_steps": 30_000,
        "tune_rows": 128,
    },
}


def configured() -> Config:
    """The configuration under the budget that `GUARD_TRAINING_BUDGET` names (default: cpu)."""
    return Config(**BUDGETS[os.environ.get("GUARD_TRAINING_BUDGET", "cpu")])
