"""Intervals by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from guard.measure.intervals import bootstrapped, paired_difference, rate, resamples, undefined, wilson
from tests.newcombe import newcombe


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 7), (7, 7), (956, 1000), (1, 1)])
def test_wilson_is_the_textbooks(hits, n):
    textbook = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((textbook.low, textbook.high), abs=1e-12)


def test_of_nothing_there_is_no_rate():
    assert rate(np.array([], bool), np.array([], int), "nothing was stopped") == undefined("nothing was stopped")


def test_items_that_stand_alone_are_worth_one_each():
    hits = np.array([1, 1, 1, 0, 0], bool)
    assert (rate(hits, np.arange(5), "-").low, rate(hits, np.arange(5), "-").high) == wilson(3, 5)


def test_copies_tell_nothing_new():
    """Each of 20 items standing there five times gives nearly the interval of 20, not of 100."""
    hits = np.arange(20) < 12
    alone = rate(hits, np.arange(20), "-")
    copied = rate(np.repeat(hits, 5), np.repeat(np.arange(20), 5), "-")
    assert copied.value == alone.value and copied.n == 100
    assert copied.low == pytest.approx(alone.low, abs=0.01) and copied.high == pytest.approx(alone.high, abs=0.01)
    perfect = rate(np.ones(100, bool), np.repeat(np.arange(20), 5), "-")
    assert (perfect.low, perfect.high) == wilson(20, 20)


def test_resamples_keep_both_classes_and_whole_families():
    harmful = np.array([1, 0, 1, 0, 1, 0, 0], bool)
    groups = np.array([0, 0, 1, 1, 2, 3, 4])  # two pairs, one harmful item, two acceptable ones
    drawn = resamples(harmful, groups, count=500)
    assert drawn.shape == (500, 7) and (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 2] == drawn[:, 3]).all()
    assert (drawn[:, :4].sum(1) == 4).all() and (drawn[:, 4] == 1).all() and (drawn[:, 5:].sum(1) == 2).all()
    assert (drawn == resamples(harmful, groups, count=500)).all(), "the same draw every time"


@given(st.integers(1, 60), st.data())
def test_a_rate_lies_in_its_interval(n, data):
    hits = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    found = rate(hits, groups, "-")
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_bootstrap_gives_percentiles():
    found = bootstrapped(0.5, np.linspace(0, 1, 1001), 10)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))


def pairs(a, b, c, d):
    return np.repeat([[True, True], [True, False], [False, True], [False, False]], [a, b, c, d], axis=0).T


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any))
def test_a_difference_of_pairs_is_newcombes(cells):
    before, after = pairs(*cells)
    found = paired_difference(before, after, np.arange(len(before)), "none")
    assert (found.low, found.value, found.high) == pytest.approx(newcombe(*cells), abs=1e-9)
    assert found.n == sum(cells) and found.low <= found.value <= found.high


def test_a_difference_of_pairs_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(3)
    for shares in ((0.7, 0.2, 0.02, 0.08), (0.9, 0.03, 0.03, 0.04), (0.05, 0.01, 0.04, 0.9)):
        truth = shares[2] - shares[1]
        held = [
            low <= truth <= high for low, _, high in (newcombe(*draw.multinomial(200, shares)) for _ in range(1000))
        ]
        assert np.mean(held) > 0.93


def test_families_widen_a_difference_and_of_nothing_there_is_none():
    before, after = pairs(40, 10, 5, 45)
    alone = paired_difference(before, after, np.arange(100), "none")
    families = paired_difference(before, after, np.arange(100) // 5, "none")
    assert families.value == alone.value and families.low < alone.low and families.high > alone.high
    nothing = np.array([], bool)
    assert paired_difference(nothing, nothing, np.array([], int), "no item").reason == "no item"
