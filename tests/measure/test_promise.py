"""Promises: the grammar, the exact bound, and two hundred reshuffles."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from guard.measure.metrics import Judged
from guard.measure.promise import LEVEL, Choice, Counts, Promise, Shortage, choose, most, split


@pytest.mark.parametrize("text", ["precision>=0.95@prevalence=0.1", "recall>=0.9", "fpr<=0.01", "precision>=0.5"])
def test_the_grammar(text):
    assert str(Promise.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "precision", "precision<=0.9", "fpr>=0.1", "recall>=1.2", "recall>=0", "recall>=0.9@prevalence=0.1",
     "precision>=0.9@prevalence=1", "accuracy>=0.9", "recall>=0.9; rm", "recall>=..9"],
)  # fmt: skip
def test_what_is_no_promise_is_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match="promise|at least|between|prevalence"):
        Promise.parse(text)


@pytest.mark.parametrize(("seen", "size", "other"), [(0, 20, 20), (1, 15, 25), (3, 10, 10), (5, 5, 9)])
def test_the_bound_is_the_largest_count_that_is_not_too_unlikely(seen, size, other):
    def tail(among_others: int) -> float:  # P(at most `seen` fall into the first part), by counting
        pile = seen + among_others
        ways = sum(comb(pile, k) * comb(size + other - pile, size - k) for k in range(seen + 1) if k <= pile)
        return ways / comb(size + other, size)

    assert most(seen, size, other, LEVEL) == max(k for k in range(other + 1) if tail(k) >= LEVEL)


def test_a_split_is_even_and_keeps_families_together():
    groups = np.repeat(np.arange(50), 2)
    strata = np.repeat(np.arange(50) % 2, 2)
    first = split(groups, strata, seed=3)
    assert first.sum() == 52 and all(len(set(first[groups == g])) == 1 for g in range(50))
    assert first[strata == 0].sum() == 26 and (first == split(groups, strata, seed=3)).all()
    assert (first != split(groups, strata, seed=4)).any()


def a_set(harmful: int, acceptable: int, apart: float, seed: int = 0) -> Judged:
    draw = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(-np.r_[draw.normal(apart, 1, harmful), draw.normal(0, 1, acceptable)]))
    n = harmful + acceptable
    return Judged(np.arange(n) < harmful, np.zeros(n, bool), score, np.arange(n))


@pytest.mark.parametrize(
    ("promise", "harmful", "acceptable", "apart"),
    [("recall>=0.9", 400, 400, 2.0), ("fpr<=0.05", 400, 400, 2.0), ("precision>=0.9", 400, 600, 2.5),
     ("precision>=0.8@prevalence=0.1", 600, 2400, 3.5)],
)  # fmt: skip
def test_a_promise_holds_on_the_other_half_in_95_of_100_splits(promise, harmful, acceptable, apart):
    promised, table = Promise.parse(promise), a_set(harmful, acceptable, apart)
    kept = refused = 0
    for seed in range(200):
        first = split(table.groups, table.harmful.astype(int), seed)
        there = table.where(~first)
        found = choose(promised, table.where(first), int(there.harmful.sum()), int((~there.harmful).sum()))
        refused += isinstance(found, Shortage)
        kept += isinstance(found, Choice) and promised.kept_by(promised.measured(there.at(found.threshold)).value)
    assert refused < 20 and kept >= 0.95 * (200 - refused)


def test_what_is_chosen_gives_most_elsewhere():
    table = a_set(400, 400, 2.0)
    low = choose(Promise.parse("fpr<=0.2"), table, 400, 400)
    high = choose(Promise.parse("fpr<=0.02"), table, 400, 400)
    assert isinstance(low, Choice) and isinstance(high, Choice)
    assert low.threshold < high.threshold and low.seen.caught > high.seen.caught
    assert low.worst <= 0.2 and high.worst <= 0.02


def test_too_few_labels_are_refused_with_how_many_would_do():
    promised = Promise.parse("precision>=0.95@prevalence=0.1")
    few = choose(promised, a_set(60, 60, 4.0), 60, 60)
    assert isinstance(few, Shortage) and few.needed is not None and few.needed[1] > 1000
    enough = choose(promised, a_set(*few.needed, 4.0, seed=1), *few.needed)  # twice as many: the rates were a guess
    assert isinstance(enough, Choice)


def test_what_no_number_of_labels_reaches_is_said_so():
    score = np.r_[np.full(200, 0.5), np.full(100, 0.9), np.full(100, 0.1)]  # the highest scores are acceptable items'
    blind = Judged(np.arange(400) < 200, np.zeros(400, bool), score, np.arange(400))
    found = choose(Promise.parse("precision>=0.99@prevalence=0.01"), blind, 200, 200)
    assert (
        isinstance(found, Shortage) and found.needed is None and found.best == pytest.approx(0.01 / (0.01 + 0.99 / 2))
    )


def test_items_without_a_score_count_as_stopped():
    table = a_set(200, 200, 2.0)
    table.score[200:240] = np.nan  # a fifth of the acceptable ones
    assert isinstance(choose(Promise.parse("fpr<=0.1"), table, 200, 200), Shortage)


def test_families_count_once():
    alone = a_set(300, 300, 3.0)
    copies = Judged(*(np.repeat(column, 3) for column in (alone.harmful, alone.accepted, alone.score, alone.groups)))
    promised = Promise.parse("recall>=0.9")
    one, three = choose(promised, alone, 300, 300), choose(promised, copies, 900, 900)
    assert isinstance(one, Choice) and isinstance(three, Choice) and one.seen == three.seen


def test_the_figure_by_hand():
    assert Promise.parse("precision>=0.9").figure(8, 2, 10, 30) == pytest.approx(8 / 10)
    assert Promise.parse("fpr<=0.1").figure(0, 3, 10, 30) == pytest.approx(0.1)
    assert Promise.parse("precision>=0.9").figure(0, 0, 10, 30) is None
    assert Promise.parse("precision>=0.9").worst(Counts(0, 0, 0, 0), Counts(0, 5, 0, 5)) is None
    assert not Promise.parse("precision>=0.1").kept_by(None)
