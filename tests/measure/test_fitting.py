"""Calibration recovers the scale and shift that scores were bent by."""

from __future__ import annotations

import numpy as np
import pytest

from guard.measure.fitting import log_odds, platt


def test_bent_scores_are_straightened():
    draw = np.random.default_rng(0)
    odds = draw.normal(0, 2, 40_000)
    harmful = draw.random(40_000) < 1 / (1 + np.exp(-odds))
    bent = 1 / (1 + np.exp(-(2 * odds + 1)))  # so odds = bent / 2 - 1 / 2
    assert platt(bent, harmful) == pytest.approx((0.5, -0.5), abs=0.03)


def test_a_stated_prevalence_moves_the_shift():
    draw = np.random.default_rng(0)
    harmful = draw.random(4000) < 0.5
    scores = 1 / (1 + np.exp(-(np.where(harmful, 1, -1) + draw.normal(0, 1, 4000))))
    assert platt(scores, harmful, 0.1)[1] == pytest.approx(platt(scores, harmful)[1] + np.log(0.1 / 0.9), abs=0.2)


def test_scores_of_zero_and_one_stay_finite():
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("harmful", [[1, 1, 1], [0, 0, 0], [1, 1, 0]])
def test_what_cannot_be_fitted_is_refused(harmful):
    with pytest.raises(ValueError, match="both classes|wrong way round"):
        platt(np.array([0.1, 0.2, 0.9]), np.array(harmful, bool))
