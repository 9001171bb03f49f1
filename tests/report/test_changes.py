"""Changes are found where there are some, and seldom where there are none."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import f as f_distribution

from guard.report.changes import FALSE_ALARMS, _cuts, changes, dispersion


@pytest.mark.parametrize(
    ("buckets", "rows", "share"), [(60, 500, 0.05), (60, 20, 0.02), (12, 5000, 0.01), (24, 40, 0.5)]
)
def test_steady_series_are_seldom_cut(buckets: int, rows: int, share: float):
    draw = np.random.default_rng(1)
    series = draw.binomial(rows, share, (300, buckets))
    assert np.mean([bool(changes(hits, np.full(buckets, rows))) for hits in series]) <= 2 * FALSE_ALARMS


def test_steady_series_that_scatter_more_than_coins_are_seldom_cut():
    draw = np.random.default_rng(2)
    shares = draw.beta(5, 45, (300, 30))  # a tenth, give or take four hundredths
    assert np.mean([bool(changes(draw.binomial(500, share), np.full(30, 500))) for share in shares]) <= 0.03


def test_a_share_that_doubles_is_found_where_it_did():
    draw = np.random.default_rng(3)
    share = np.where(np.arange(40) < 25, 0.05, 0.10)
    found = [changes(draw.binomial(400, share), np.full(40, 400)) for _ in range(100)]
    assert np.mean([len(one) == 1 and abs(one[0].at - 25) <= 2 for one in found]) >= 0.95


def test_two_changes_are_told_apart():
    hits = [10] * 10 + [40] * 10 + [20] * 10
    found = changes(hits, [200] * 30)
    assert [change.at for change in found] == [10, 20]
    assert [change.after.value for change in found] == [0.2, 0.1]
    assert found[0].before.value == 0.05 and found[0].before.n == 2000


def test_buckets_without_rows_keep_their_places():
    hits = np.array([5, 6, 0, 5, 4, 6, 0, 40, 39, 41, 38, 40, 42, 39])
    of = np.where(hits > 0, 100, 0)
    assert [change.at for change in changes(hits, of)] == [7]


@pytest.mark.parametrize("hits", [[], [3], [0] * 20, [10] * 20])
def test_series_that_say_nothing_have_no_change(hits: list[int]):
    assert changes(hits, [10] * len(hits)) == []


def test_a_burst_is_two_changes_there_and_back():
    assert [change.at for change in changes([5] * 10 + [60] + [5] * 10, [100] * 21)] == [10, 11]


def test_the_cuts_are_the_cheapest_of_all():
    draw = np.random.default_rng(4)
    for _ in range(20):
        of = draw.integers(20, 60, 9).astype(float)
        hits = draw.binomial(of.astype(int), draw.choice([0.05, 0.9], 9)).astype(float)
        penalty = f_distribution.isf(FALSE_ALARMS / 8, 1, 4)
        spread = dispersion(hits, of)
        price = {}  # of each stretch alone
        for a, b in combinations(range(10), 2):
            p = hits[a:b].sum() / of[a:b].sum()
            price[a, b] = -2 * binom.logpmf(hits[a:b], of[a:b], p).sum() / spread
        ways = {
            cuts: penalty * many + sum(price[stretch] for stretch in pairwise((0, *cuts, 9)))
            for many in range(9) for cuts in combinations(range(1, 9), many)
        }  # fmt: skip
        assert ways[tuple(_cuts(hits, of))] == pytest.approx(min(ways.values()))
