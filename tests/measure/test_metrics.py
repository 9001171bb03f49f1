"""Tables that can be counted by hand, and scikit-learn as the oracle of the curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from guard.measure import metrics
from guard.measure.intervals import resamples
from guard.measure.metrics import Curve, Judged, counts

NAN = float("nan")


def judged(rows: list[tuple[int, int, float]], groups: list[int] | None = None) -> Judged:
    """Rows of (harmful, accepted, score)."""
    harmful, accepted, score = (np.array(column) for column in zip(*rows, strict=True))
    return Judged(harmful.astype(bool), accepted.astype(bool), score.astype(float),
                  np.array(groups or range(len(rows))))  # fmt: skip


# 4 acceptable: 3 accepted. 3 harmful: 1 stopped, 1 accepted, 1 in error (no score), which is not accepted.
TABLE = judged([(0, 1, 0.1), (0, 1, 0.2), (0, 1, 0.6), (0, 0, 0.7), (1, 0, 0.8), (1, 1, 0.3), (1, 0, NAN)])


def test_the_cells():
    assert counts(TABLE) == {
        "items": 7, "acceptable": 4, "harmful": 3, "right": 3, "false_alarms": 1, "missed": 1, "caught": 2,
        "unscored": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("positive", "precision", "recall"), [("acceptable", (3, 4), (3, 4)), ("harmful", (2, 3), (2, 3))]
)
def test_both_views(positive, precision, recall):
    for function, (hits, n) in ((metrics.precision, precision), (metrics.recall, recall)):
        found = function(TABLE, positive)
        assert (found.value, found.n) == (pytest.approx(hits / n), n)
    f1 = metrics.f1(TABLE, positive)
    p, r = precision[0] / precision[1], recall[0] / recall[1]
    assert f1.value == pytest.approx(2 * p * r / (p + r)) and f1.low < f1.value < f1.high


def test_the_false_positive_rate_is_about_acceptable_items():
    assert metrics.false_positive_rate(TABLE).value == 0.25


def test_precision_where_harm_is_rarer():
    """9 of 10 caught, 1 of 10 stopped: .9 on the set, (.1 * .9) / (.1 * .9 + .9 * .1) = .5 at one in ten."""
    table = judged([(1, 0, 0.9)] * 9 + [(1, 1, 0.1)] + [(0, 1, 0.1)] * 9 + [(0, 0, 0.9)])
    assert metrics.precision(table, "harmful").value == pytest.approx(0.9)
    found = metrics.precision_at(table, 0.1)
    assert found.value == pytest.approx(0.5) and found.low < 0.5 < found.high
    assert metrics.precision_at(table, 0.1, "acceptable").value == pytest.approx(0.81 / (0.81 + 0.01))


def test_undefined_is_null_with_a_reason():
    safe = judged([(0, 1, 0.1), (0, 1, 0.2)])
    for found in (
        metrics.precision(safe, "harmful"), metrics.recall(safe, "harmful"), metrics.f1(safe, "harmful"),
        metrics.precision_at(safe, 0.1), Curve(safe).auroc(), Curve(safe).auprc("harmful"), Curve(safe).recall_at(0.01),
    ):  # fmt: skip
        assert found.value is None and found.low is None and found.reason
    assert metrics.recall(safe, "acceptable").value == 1.0
    unscored = judged([(0, 0, NAN), (1, 0, NAN)])
    assert metrics.calibration_error(unscored).reason == Curve(unscored).auroc().reason == "no item has a score"


def test_calibration_error_by_hand():
    table = judged([(0, 1, 0.2), (1, 1, 0.2), (1, 0, 0.9)])
    assert metrics.calibration_error(table).value == pytest.approx((2 * 0.3 + 0.1) / 3)
    rows = metrics.reliability(table)
    assert [row["harmful"].n for row in rows] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert rows[2]["harmful"].value == 0.5 and rows[2]["mean_score"] == pytest.approx(0.2)
    assert rows[0]["harmful"].reason and rows[0]["mean_score"] is None


def test_a_score_of_one_is_in_the_last_bin():
    assert metrics.reliability(judged([(1, 0, 1.0)]))[-1]["harmful"].n == 1


def test_recall_at_false_positives_by_hand():
    """Of 20 acceptable items one may be stopped at 5 %, none at 1 %."""
    table = judged([(0, 1, s / 100) for s in range(19)] + [(0, 0, 0.8)] + [(1, 0, 0.9), (1, 0, 0.7), (1, 1, 0.05)])
    assert Curve(table).recall_at(0.05).value == pytest.approx(2 / 3)
    assert Curve(table).recall_at(0.01).value == pytest.approx(1 / 3)


def test_tied_scores_cannot_be_parted():
    table = judged([(0, 1, 0.5), (1, 1, 0.5)])
    assert Curve(table).recall_at(0.05).value == 0.0 and Curve(table).auroc().value == 0.5


SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(harm for harm, _ in rows) < len(rows)
)


@settings(max_examples=60)
@given(SCORES)
def test_resampled_curves_are_what_scikit_learn_says_of_the_resample(rows):
    table = judged([(int(harm), 1, score / 9) for harm, score in rows])
    weights = resamples(table.harmful, table.groups, count=3)
    above = metrics._above(table.harmful, table.score, weights)
    for i, weight in enumerate(weights):
        there = np.repeat(np.arange(len(rows)), weight)
        harmful, score = table.harmful[there], table.score[there]
        assert metrics._auroc(*above)[i] == pytest.approx(roc_auc_score(harmful, score))
        assert metrics._auprc(*above)[i] == pytest.approx(average_precision_score(harmful, score))
    assert Curve(table).auprc("acceptable").value == pytest.approx(
        average_precision_score(~table.harmful, -table.score)
    )


def test_the_sweep_stops_what_reaches_the_threshold_and_what_has_no_score():
    rows = metrics.sweep(TABLE, [0.2, 0.7])
    assert [(row["right"], row["caught"], row["false_alarms"], row["missed"]) for row in rows] == [
        (1, 3, 3, 0),
        (3, 2, 1, 1),
    ]


def test_confusion_counts_every_item():
    table = metrics.confusion(["hate", "hate", "acceptable"], ["insult", "error", "acceptable"])
    assert table == {"acceptable": {"acceptable": 1}, "hate": {"error": 1, "insult": 1}}


def test_cost():
    assert metrics.cost(2.0, 500, 1.8) == {
        "seconds_per_1000": 4.0,
        "cost_per_1000": pytest.approx(0.002),
        "reason": None,
    }
    assert metrics.cost(2.0, 500, None)["cost_per_1000"] is None and metrics.cost(None, 0, 1.0)["reason"]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        Judged(np.zeros(2, bool), np.zeros(2, bool), np.zeros(3), np.zeros(2, int))
