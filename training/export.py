"""Stage 6: the checkpoint as standard Hugging Face files, in bfloat16, with its tokenizer."""

from __future__ import annotations

import json
import shutil

import torch
from transformers import MistralForCausalLM

from training.config import Config

LIMIT = 48 * 2**20  # bytes, all files together


def export(config: Config, model: MistralForCausalLM) -> None:
    """Write weights and configuration beside the tokenizer, and what `guard` wants to know besides."""
    model.to(torch.bfloat16).save_pretrained(config.out)
    shutil.copytree(config.tokenizer, config.out, dirs_exist_ok=True)
    (config.out / "guard.json").write_text(json.dumps({"languages": ["en"]}) + "\n", encoding="utf-8")
    (config.out / "calibration.json").unlink(missing_ok=True)  # it belonged to the weights before
    size = sum(path.stat().st_size for path in config.out.iterdir())
    if size > LIMIT:
        raise RuntimeError(f"{config.out} holds {size} bytes, more than {LIMIT}")
