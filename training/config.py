"""The one configuration of the embedded model's training: sizes, budgets, seeds, folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    """`data` holds the public sets (see training/README.md), `work` the intermediate files, `out` the checkpoint."""

    data: Path = Path(os.environ.get("GUARD_TRAINING_DATA", ROOT.parent / "shared" / "data"))
    authored: Path = ROOT / "training" / "authored"
    work: Path = ROOT / "training" / "work"
    out: Path = ROOT / "models" / "embedded"
    seed: int = 20261121

    # shape: Mistral, small
    vocab_size: int = 8192
    hidden_size: int = 384
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    intermediate_size: int = 1024
    sliding_window: int = 1024
    max_positions: int = 8192

    # budgets
    pretrain_steps: int = 300
    tune_steps: int = 2400
    refine_steps: int = 700
    pretrain_rows: int = 24
    pretrain_tokens: int = 256  # per row
    tune_rows: int = 64
    content_tokens: int = 160
    learning_rate: float = 1.5e-3
    tune_learning_rate: float = 8e-4
    refine_learning_rate: float = 6e-4
    checkpoint_minutes: float = 4.0
