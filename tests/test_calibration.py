"""Calibration by hand: scores, shares, and figures that would turn a verdict round."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.calibration import Calibration, Platt, calibrated, sigmoid
from guard.errors import ModelUnavailable
from guard.item import Kind

INF = math.inf
FIT = Calibration({("p", Kind.PROMPT): Platt(2.0, math.log(3))})


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) if p else -INF for p in probabilities]


def test_without_figures_the_probabilities_are_normalised():
    score, shares = calibrated(Calibration().fit("p", Kind.PROMPT), logs(0.7, 0.2, 0.1))
    assert score == pytest.approx(0.3)
    assert shares == pytest.approx([0.2, 0.1])
    score, shares = calibrated(Calibration().fit("p", Kind.PROMPT), logs(0.2, 0.1, 0.1))
    assert score == pytest.approx(0.5)
    assert shares == pytest.approx([0.25, 0.25])


def test_by_hand():
    """Odds 1 : 2 are squared by the scale 2 and tripled by the shift ln 3: 3 : 4; shares 3 : 1 stay."""
    score, shares = calibrated(FIT.fit("p", Kind.PROMPT), logs(2 / 3, 1 / 4, 1 / 12))
    assert score == pytest.approx(3 / 7)
    assert shares == pytest.approx([9 / 28, 3 / 28])


def test_figures_are_for_their_policy_and_kind_alone():
    for other in (("p", Kind.COMMENT), ("q", Kind.PROMPT)):
        assert calibrated(FIT.fit(*other), logs(0.5, 0.5))[0] == pytest.approx(0.5)
    assert calibrated(FIT.fit("p", Kind.PROMPT), logs(0.5, 0.5))[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("log_probs", "score", "shares"),
    [
        ([0.0, -INF, -INF], 0, [0, 0]),
        ([0.0, -800.0, -INF], 0, [0, 0]),
        ([-INF, 0.0, -INF], 1, [1, 0]),
        ([-INF, math.log(0.25), math.log(0.75)], 1, [0.25, 0.75]),
        ([math.log(0.5), math.log(0.5), -INF], 0.5, [0.5, 0]),
        ([-INF, -INF, -INF], 1, [0.5, 0.5]),
        ([-1e308, -1e308, -INF], 0.5, [0.5, 0]),
        ([-1.7e308, -5e-324, -INF], 1, [1, 0]),
        ([-5e-324, -1.7e308, -INF], 0, [0, 0]),
        ([-2000.0, -2000.0, -2000.0], 2 / 3, [1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], 2 / 3, [1 / 3, 1 / 3]),
    ],
)
@pytest.mark.parametrize("calibration", [Calibration(), Calibration({("p", Kind.PROMPT): Platt(1.0, 0.0)})])
def test_extreme_log_probabilities(calibration: Calibration, log_probs: list[float], score: float, shares: list[float]):
    """Where no category was possible, or nothing at all, the score was NaN: below every threshold, so it passed."""
    found, parts = calibrated(calibration.fit("p", Kind.PROMPT), log_probs)
    assert found == pytest.approx(score, abs=1e-12)
    assert parts == pytest.approx(shares, abs=1e-12)


extreme = st.one_of(st.floats(max_value=0, allow_nan=False), st.just(-INF), st.just(0.0), st.floats(-50, 0))
figures = st.builds(Platt, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))


@settings(deadline=None, max_examples=60)
@given(st.lists(extreme, min_size=2, max_size=14), figures)
def test_no_log_probabilities_raise_or_give_nan(log_probs: list[float], fit: Platt):
    score, shares = calibrated(Calibration({("p", Kind.PROMPT): fit}).fit("p", Kind.PROMPT), log_probs)
    assert 0 <= score <= 1
    assert all(0 <= share <= 1 for share in shares)
    assert len(shares) == len(log_probs) - 1
    assert sum(shares) == pytest.approx(score, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-30, 0), min_size=3, max_size=6), st.floats(0.1, 5), figures)
def test_less_acceptable_is_never_a_lower_score(log_probs: list[float], less: float, fit: Platt):
    calibration = Calibration({("p", Kind.PROMPT): fit})
    score, _ = calibrated(calibration.fit("p", Kind.PROMPT), log_probs)
    assert calibrated(calibration.fit("p", Kind.PROMPT), [log_probs[0] - less, *log_probs[1:]])[0] >= score


@pytest.mark.parametrize(
    ("x", "y"),
    [(0, 0.5), (1e4, 1), (-1e4, 0), (INF, 1), (-INF, 0), (math.log(3), 0.75), (-math.log(3), 0.25), (-745.2, 0)],
)  # fmt: skip
def test_sigmoid(x: float, y: float):
    assert sigmoid(x) == pytest.approx(y, abs=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def write(folder: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "calibration.json").write_text(text)
    return folder


def row(**changed: object) -> dict[str, object]:
    return {"policy": "p", "kind": "prompt", "scale": 1.5, "shift": -0.25, **changed}


def test_a_file_of_figures(tmp_path: Path):
    made = Calibration.load(write(tmp_path, {"fits": [row(), row(kind="comment", scale=2)], "fitted_on": "x"}))
    assert made.fits == {("p", Kind.PROMPT): Platt(1.5, -0.25), ("p", Kind.COMMENT): Platt(2.0, -0.25)}
    assert Calibration.load(write(tmp_path, {"fits": []})) == Calibration()


def test_a_model_without_figures_is_used_as_it_is(tmp_path: Path):
    assert Calibration.load(tmp_path) == Calibration()


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "5", "null", '"fits"', "{}",
        {"fits": None}, {"fits": {"p": 1}}, {"fits": [5]}, {"fits": ["p"]}, {"fits": [{}]},
        {"fits": [row(kind="essay")]}, {"fits": [row(policy=["p"])]}, {"fits": [row(scale="big")]},
        {"fits": [row(scale=None)]}, {"fits": [{**row(), "shift": []}]},
        {"fits": [row(), row(scale=-1)]},
        {"fits": [row(scale=0)]}, {"fits": [row(scale=-1.5)]},
        '{"fits": [{"policy": "p", "kind": "prompt", "scale": NaN, "shift": 0}]}',
        '{"fits": [{"policy": "p", "kind": "prompt", "scale": Infinity, "shift": 0}]}',
        '{"fits": [{"policy": "p", "kind": "prompt", "scale": 1, "shift": NaN}]}',
        '{"fits": [{"policy": "p", "kind": "prompt", "scale": 1, "shift": -Infinity}]}',
        f'{{"fits": [{{"policy": "p", "kind": "prompt", "scale": 1{"0" * 400}, "shift": 0}}]}}',
    ],
)  # fmt: skip
def test_a_file_that_does_not_hold_is_refused(tmp_path: Path, content: object):
    """NaN as a figure let everything pass, and a negative scale would have turned every verdict round."""
    with pytest.raises(ModelUnavailable, match="calibration.json: not a calibration file") as error:
        Calibration.load(write(tmp_path, content))
    assert error.value.hint
