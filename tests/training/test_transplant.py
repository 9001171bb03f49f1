"""Least squares and the alignment of two tokenizers."""

from __future__ import annotations

import torch

from training.transplant import aligned, fit, shared_heads


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


def products(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """What a softmax over keys sees: (H, N, N), without what is the same for all keys."""
    shared = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scores = torch.einsum("nhd,mhd->hnm", queries, shared)
    return scores - scores.mean(2, keepdim=True)


def test_heads_of_their_own_keep_their_products() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(60, 4, 8) for _ in "qkv")
    queries, keys, values = shared_heads(q, k, v, torch.randn(4, 32, 8), groups=4)
    assert torch.allclose(products(queries, keys), products(q, k), atol=1e-3)
    assert torch.allclose(
        values.flatten(1) @ fit(values.flatten(1), v.flatten(1)).T, (v - v.mean(0)).flatten(1), atol=0.1
    )


def test_heads_with_equal_keys_share_them_without_loss() -> None:
    torch.manual_seed(0)
    q = torch.randn(60, 4, 8)
    two = torch.randn(60, 2, 8)
    k = two[:, [0, 1, 0, 1]]  # heads 0 and 2 are alike, 1 and 3 are
    queries, keys, values = shared_heads(q, k, k, torch.randn(4, 32, 8), groups=2)
    assert keys.shape == values.shape == (60, 2, 8)
    assert torch.allclose(products(queries, keys), products(q, k)[[0, 2, 1, 3]], atol=1e-3)


def test_the_strongest_direction_of_a_key_turns_slowest() -> None:
    torch.manual_seed(0)
    k = torch.randn(200, 1, 8) * torch.tensor([10.0, 5.0, 1, 1, 1, 1, 1, 1])
    _, keys, _ = shared_heads(torch.randn(200, 1, 8), k, k, torch.randn(1, 32, 8), groups=1)
    assert keys.std(0)[0].argsort(descending=True)[:2].tolist() == [3, 7]  # the pair (3, 7) of 4 turns slowest
