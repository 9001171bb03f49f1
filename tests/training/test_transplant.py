"""Least squares and the alignment of two tokenizers."""

from __future__ import annotations

import torch

from training.transplant import aligned, fit


def test_a_linear_map_is_found_again() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(500, 6), torch.randn(3, 6)
    assert torch.allclose(fit(x, x @ w.T), w, atol=0.01)


def test_a_constant_is_carried_by_a_constant_direction() -> None:
    x = torch.cat([torch.randn(500, 4), torch.ones(500, 1)], dim=1)
    assert torch.allclose(x @ fit(x, torch.full((500, 2), 3.0)).T, torch.full((500, 2), 3.0), atol=0.05)


def test_tokens_that_end_at_the_same_character_are_paired() -> None:
    theirs = [[(0, 0), (0, 4), (5, 8), (8, 11), (0, 0)]]  # [CLS] kill ##ing ... [SEP]
    ours = [[(0, 4), (4, 11), (11, 12)]]
    assert aligned(theirs, ours) == [(0, 1, 0), (0, 3, 1)]
