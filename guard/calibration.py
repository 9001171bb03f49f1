"""From label probabilities to calibrated scores. Fitting is `measure/fitting.py`'s work; this only applies.

The overall log-odds x = ln((1 - P(acceptable)) / P(acceptable)) are mapped to sigmoid(scale * x + shift) (Platt 1999);
the categories keep their shares of the new score. A policy that was calibrated (`guard calibrate`) brings its own
figures; else the model's are taken, and a model that brings none for a policy is used as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guard.errors import ModelUnavailable
from guard.item import Kind


@dataclass(frozen=True)
class Platt:
    """scale and shift of the log-odds; (1, 0) changes nothing."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, log_odds: float) -> float:
        return sigmoid(self.scale * log_odds + self.shift)


@dataclass(frozen=True)
class Calibration:
    """What `calibration.json` beside a model holds: figures per policy id and kind of item, and the categories
    (`Category.meaning`) that the model was trained for."""

    fits: dict[tuple[str, Kind], Platt] = field(default_factory=dict)
    known: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read `calibration.json` of a model folder; a folder without one is not calibrated."""
        file = folder / "calibration.json"
        if not file.is_file():
            return cls()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            rows, known = content["fits"], frozenset(map(str, content.get("known", ())))
            fits = {(row["policy"], Kind(row["kind"])): Platt(float(row["scale"]), float(row["shift"])) for row in rows}
            # NaN compares as false with every threshold, and a scale below 0 would turn the scores round
            if not all(
                fit.scale > 0 and math.isfinite(fit.scale) and math.isfinite(fit.shift) for fit in fits.values()
            ):
                raise ValueError("a scale must be a number above 0, a shift a number")
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as cause:
            raise ModelUnavailable(f"{file}: not a calibration file: {cause}", hint="Fit it again.") from cause
        return cls(fits, known)

    def fit(self, policy_id: str, kind: Kind) -> Platt:
        """What the model brings for a policy and a kind; nothing changes the score where it brings nothing."""
        return self.fits.get((policy_id, kind), Platt())


def calibrated(fit: Platt, log_probs: Sequence[float]) -> tuple[float, list[float]]:
    """(score, the categories' probabilities) from ln P of acceptable and of each category, in that order.

    A label may be impossible (minus infinity). Where all are, nothing is known, which is no reason to accept: the
    score is 1, shared evenly.

    >>> score, categories = calibrated(Platt(), [math.log(0.2), math.log(0.1), math.log(0.1)])
    >>> round(score, 6), [round(c, 6) for c in categories]
    (0.5, [0.25, 0.25])
    """
    acceptable, categories = log_probs[0], log_probs[1:]
    top = max(categories)
    if top == -math.inf:
        impossible = acceptable == -math.inf
        return float(impossible), [impossible / len(categories)] * len(categories)
    weights = [math.exp(c - top) for c in categories]  # relative to the likeliest, so that they add up at any size
    mass = sum(weights)
    score = fit(top + math.log(mass) - acceptable)
    return score, [score * weight / mass for weight in weights]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))
