"""What is told of a family that was left out: the figures of each judge, in slices, and embeddings made once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guard.item import Item, Kind
from training import holdout
from training.holdout import Embedded, figures, slices_of
from training.sources import Example


def test_figures_at_the_threshold_and_over_all_of_them() -> None:
    harmful = np.array([True, True, False, False, False])
    found = figures(harmful, np.array([0.9, 0.4, 0.6, 0.2, 0.1]), 0.5)
    assert found["f1"]["value"] == pytest.approx(0.5)  # one of two is caught, one of three is stopped
    assert found["false_positive_rate"]["value"] == pytest.approx(1 / 3)
    assert found["auroc"]["value"] == pytest.approx(5 / 6)
    assert found["auprc"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures(harmful, np.where(harmful, 1.0, 0.0), 0.5)["calibration_error"]["value"] == 0


def test_slices_by_source_and_length_are_whole() -> None:
    rows = [
        Example(Item(text="x" * length, kind=Kind.COMMENT), source, "dev", harmful=False)
        for source in ("gab_hate", "hatexplain") for length in (1, 80, 81, 200, 201)
    ]  # fmt: skip
    found = slices_of(rows)
    assert {name: int(inside.sum()) for name, inside in found.items()} == {
        "gab_hate": 5, "hatexplain": 5, "to 80 characters": 4, "to 200 characters": 4, "over 200 characters": 2,
    }  # fmt: skip
    assert "gab_hate" not in slices_of(rows[:5])


def test_a_text_is_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def encoder(texts: list[str]) -> SimpleNamespace:
        seen.extend(texts)
        return SimpleNamespace(pooled=lambda: torch.tensor([[float(len(text)), 1.0] for text in texts]))

    monkeypatch.setattr(holdout, "Encoder", lambda: encoder)
    file = tmp_path / "embeddings.npz"
    assert Embedded(file)(["aaa", "b", "aaa"]).tolist() == [[3, 1], [1, 1], [3, 1]]
    assert Embedded(file)(["cc", "b"]).tolist() == [[2, 1], [1, 1]]
    assert sorted(seen) == ["aaa", "b", "cc"] and [path.name for path in tmp_path.iterdir()] == [file.name]
