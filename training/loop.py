"""What pre-training and tuning share: optimiser, schedule, and checkpoints that survive a kill at any moment."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import MistralForCausalLM

from guard.engine.checkpoint import pick_dtype
from training.config import Config

AVERAGED = 0.995  # of the running average of the weights that a step keeps


def optimiser(model: MistralForCausalLM, rate: float) -> torch.optim.AdamW:
    """AdamW, no decay on norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def run(
    config: Config, stage: str, inputs: str, model: MistralForCausalLM, rate: float, steps: int,
    step_loss: Callable[[int], Tensor], begin: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Take `steps` steps of `step_loss(step)`, resuming from the last checkpoint of `stage` with the same inputs, or
    after `begin`.

    A step's batch depends on the seed and on its number alone, so a resumed run sees what an undisturbed one sees.
    """
    optimizer = optimiser(model, rate)
    file = config.work / f"{stage}.pt"
    state = torch.load(file, weights_only=True) if file.is_file() else {}
    resumed = state.get("inputs") == inputs
    if resumed:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        begin()
    first = state["step"] if resumed else 0
    average = {
        name: state["average"][name] if resumed else value.detach().clone() for name, value in model.named_parameters()
    }
    model.train()
    device = torch.get_default_device().type
    narrow = pick_dtype("auto", device) is torch.bfloat16  # emulated, it takes many times as long
    began = saved = time.monotonic()
    mean = 0.0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        with torch.autocast(device, torch.bfloat16, enabled=narrow):
            loss = step_loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _blend(average, model, min(AVERAGED, (step + 1) / (step + 10)))
        mean = loss.item() if step == first else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 49:
            minutes = (time.monotonic() - began) / 60
            line = {"stage": stage, "step": step + 1, "of": steps, "loss": round(mean, 4), "minutes": round(minutes, 2)}
            print(json.dumps(line), flush=True)
        if time.monotonic() - saved > 60 * config.checkpoint_minutes:
            save(file, inputs, model, average, optimizer, step + 1)
            saved = time.monotonic()
    save(file, inputs, model, average, optimizer, steps)


@torch.no_grad()
def _blend(average: dict[str, Tensor], model: MistralForCausalLM, kept: float) -> None:
    """Move the average a little to the weights."""
    for name, value in model.named_parameters():
        average[name].lerp_(value, 1 - kept)


def save(
    file: Path, inputs: str, model: MistralForCausalLM, average: dict[str, Tensor], optimizer: torch.optim.Optimizer,
    step: int,
) -> None:  # fmt: skip
    """Write a checkpoint beside the old one and put it in its place in one move. The next stage takes the average."""
    part = file.with_suffix(".part")
    state = {
        "inputs": inputs, "step": step, "average": average, "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    torch.save(state, part)
    os.replace(part, file)
