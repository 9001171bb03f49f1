"""Fitting of calibration: from raw scores and labels to the scale and shift that `guard/calibration.py` applies."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from guard.measure.intervals import Bools, Floats

CLIP = 1e-7  # log-odds of a score of exactly 0 or 1 would be infinite


def log_odds(scores: Floats) -> Floats:
    """ln(s / (1 - s)) of scores [N], which are kept a little away from 0 and 1."""
    kept = np.clip(scores, CLIP, 1 - CLIP)
    return np.asarray(np.log(kept / (1 - kept)))


def platt(scores: Floats, harmful: Bools, prevalence: float | None = None) -> tuple[float, float]:
    """Scale and shift of the log-odds (Platt 1999) for scores [N] and labels [N], where `prevalence` are harmful.

    Without a prevalence, that of the labels. Raises `ValueError` where the labels are of one class, or where the scores
    rank them the wrong way round: a negative scale would turn every verdict into its opposite.
    """
    if harmful.all() or not harmful.any():
        raise ValueError("labels of both classes are needed")
    share = float(harmful.mean()) if prevalence is None else prevalence
    weights = np.where(harmful, share / harmful.mean(), (1 - share) / (1 - harmful.mean()))
    fit = LogisticRegression(C=1e6).fit(log_odds(scores)[:, None], harmful, sample_weight=weights)
    scale, shift = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if not (scale > 0 and np.isfinite(shift)):
        raise ValueError(f"the scores rank the labels the wrong way round (scale {scale:.3g})")
    return scale, shift
