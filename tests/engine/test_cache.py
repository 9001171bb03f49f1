"""The prefix store: budget, order of forgetting, equality of tokens."""

from __future__ import annotations

import torch

from guard.engine.attention import Kept
from guard.engine.cache import Prefix, PrefixStore


def prefix(tokens: int) -> Prefix:
    half = torch.zeros(2, tokens, 4)  # (K, P, D): 32 bytes a token
    return Prefix((Kept(half, half.clone()),))


def test_bytes_are_counted():
    assert prefix(3).num_bytes == 2 * 2 * 3 * 4 * 4


def test_the_least_recently_used_goes_first():
    store = PrefixStore(budget=2 * prefix(1).num_bytes)
    store.put((1,), prefix(1))
    store.put((2,), prefix(1))
    assert store.get((1,)) is not None
    store.put((3,), prefix(1))
    assert store.get((2,)) is None and store.get((1,)) is not None and store.get((3,)) is not None
    assert store.num_bytes == 2 * prefix(1).num_bytes and len(store) == 2


def test_what_is_larger_than_the_budget_is_not_kept_and_costs_nobody_his_place():
    store = PrefixStore(budget=prefix(2).num_bytes)
    assert store.put((1,), prefix(1))
    assert not store.put((9, 9, 9), prefix(3))
    assert store.get((9, 9, 9)) is None and store.get((1,)) is not None


def test_what_is_pinned_stays_whatever_comes():
    store = PrefixStore(budget=2 * prefix(1).num_bytes)
    store.pin([(1,)])
    for tokens in ((1,), (2,), (3,), (4,)):
        assert store.put(tokens, prefix(1))
    assert store.get((1,)) is not None and store.get((4,)) is not None
    assert store.get((2,)) is None and store.get((3,)) is None
    assert store.num_bytes == 2 * prefix(1).num_bytes


def test_what_fits_only_in_place_of_a_pinned_one_is_not_kept_and_costs_nobody_his_place():
    store = PrefixStore(budget=3 * prefix(1).num_bytes)
    store.pin([(1,)])
    store.put((1,), prefix(1))
    store.put((2,), prefix(1))
    assert not store.put((3,), prefix(3))
    assert store.get((1,)) is not None and store.get((2,)) is not None


def test_pins_replace_those_before():
    store = PrefixStore(budget=prefix(1).num_bytes)
    store.pin([(1,)])
    store.put((1,), prefix(1))
    assert not store.put((2,), prefix(1))
    store.pin([(2,)])
    assert store.put((2,), prefix(1))
    assert store.get((1,)) is None


def test_equal_hashes_are_not_equal_tokens():
    class Ids(tuple):
        def __hash__(self) -> int:
            return 7

    store = PrefixStore(budget=10**6)
    store.put(Ids((1, 2)), prefix(1))
    assert store.get(Ids((1, 3))) is None and store.get(Ids((1, 2))) is not None
