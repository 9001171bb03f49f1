"""Training that is cut off and goes on equals training that is not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Linear

from training import loop
from training.config import Config


class Killed(Exception):
    pass


def trained(config: Config, inputs: str = "a", killed_at: int | None = None) -> tuple[Tensor, list[int]]:
    torch.manual_seed(0)
    model = Linear(4, 4)
    seen: list[int] = []

    def loss(step: int) -> Tensor:
        if step == killed_at:
            raise Killed
        seen.append(step)
        x = torch.randn(4, generator=torch.Generator().manual_seed(step))
        return (model(x).float() - x).pow(2).mean()

    with suppress(Killed):
        loop.run(config, "tiny", inputs, model, 1e-2, 8, loss)
    average: Tensor = torch.load(config.work / "tiny.pt", weights_only=True)["average"]["weight"]
    return average, seen


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(Config(), work=tmp_path, checkpoint_minutes=0.0)


def test_a_killed_run_goes_on_to_the_same_weights(config: Config, tmp_path: Path) -> None:
    undisturbed, _ = trained(replace(config, work=tmp_path / "."))
    (tmp_path / "tiny.pt").unlink()
    _, first = trained(config, killed_at=5)
    weights, rest = trained(config)
    assert first == [0, 1, 2, 3, 4] and rest == [5, 6, 7]
    assert torch.equal(weights, undisturbed)


def test_what_is_handed_on_is_the_average_of_the_last_weights(config: Config) -> None:
    average, _ = trained(config)
    last = torch.load(config.work / "tiny.pt", weights_only=True)["model"]["weight"]
    torch.manual_seed(0)
    first = Linear(4, 4).weight
    assert 0 < (average - last).norm() < (first - last).norm()


def test_a_checkpoint_of_other_inputs_is_not_taken_up(config: Config) -> None:
    trained(config, inputs="a", killed_at=5)
    _, seen = trained(config, inputs="b")
    assert seen == list(range(8))
