"""The two plots of a report, as SVG that stands in the page itself: the same numbers give the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve

from guard.measure.metrics import Judged
from guard.report.svg import drawn


def precision_recall(judged: Judged) -> str:
    """Precision against recall for both positive classes, with the point where the policy decides."""

    def draw(axes: Axes) -> None:
        scored = judged.scored()
        if scored.harmful.all() or not scored.harmful.any():
            axes.text(0.5, 0.5, "needs scored items of both classes", ha="center")
        else:
            for name, true, score, said in (
                ("positive class: acceptable", ~scored.harmful, -scored.score, scored.accepted),
                ("positive class: harmful", scored.harmful, scored.score, ~scored.accepted),
            ):
                precision, recall, _ = precision_recall_curve(true, score)
                (line,) = axes.plot(recall, precision, label=name, drawstyle="steps-post")
                if said.any():
                    point = (true & said).sum() / true.sum(), (true & said).sum() / said.sum()
                    axes.plot(*point, marker="o", color=line.get_color(), label="  as the policy decides")
            axes.legend(loc="lower left", fontsize=8)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))

    return drawn(draw)


def reliability(rows: list[dict[str, Any]]) -> str:
    """Harmful share against mean score per bin, with 95 % intervals; on the diagonal a score means what it says."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
        full = [row for row in rows if row["harmful"]["value"] is not None]
        mean = np.array([row["mean_score"] for row in full])
        share = np.array([row["harmful"]["value"] for row in full])
        around = np.array([[row["harmful"]["low"], row["harmful"]["high"]] for row in full]).reshape(-1, 2).T
        axes.errorbar(mean, share, yerr=np.abs(around - share), marker="o", capsize=3)
        axes.set(xlabel="mean score of the bin", ylabel="share that was harmful", xlim=(0, 1), ylim=(0, 1))

    return drawn(draw)
