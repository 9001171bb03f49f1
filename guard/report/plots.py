"""The charts of a report. Colours are names that the page's style sheet has a light and a dark value for.

No word of others is drawn, because matplotlib reads `$...$` as a formula and has no letters for most languages: names
stand in the legends, which are HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from guard.report.buckets import Buckets
from guard.report.changes import Change
from guard.report.found import BINS
from guard.report.rates import share
from guard.report.svg import drawn

# what matplotlib is given, and the page replaces by `var(--name)`
COLOURS = {
    name: f"#0a0b{10 + i:02x}"
    for i, name in enumerate(("ink", "faint", "paper", "calm", "stop", "mark", *(f"c{n}" for n in range(7))))
}
SERIES = tuple(f"c{n}" for n in range(7))
_WIDE, _LOW = 7.4, 2.5  # inches
_TICKS = 7


def rows_over_time(buckets: Buckets, allowed: Sequence[int], stopped: Sequence[int]) -> str:
    """Judged rows per bucket: those allowed, and on top of them those stopped."""
    return _stacked("rows", buckets, {"calm": allowed, "stop": stopped}, "rows")


def categories_over_time(buckets: Buckets, series: Mapping[str, Sequence[int]]) -> str:
    """Stopped rows per bucket, by colour."""
    return _stacked("categories", buckets, series, "stopped rows")


def share_over_time(
    salt: str, buckets: Buckets, lines: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    changed: Sequence[Change] = (),
) -> str:  # fmt: skip
    """Shares per bucket with their 95 % intervals: colour -> (hits, of). Vertical lines where a change begins."""

    def draw(axes: Axes) -> None:
        highest = 0.0
        for colour, (hits, of) in lines.items():
            found = [share(k, n) for k, n in zip(hits, of, strict=True)]
            values = np.array([[np.nan if x is None else x for x in (e.value, e.low, e.high)] for e in found])
            at = np.arange(len(found))
            axes.fill_between(at, 100 * values[:, 1], 100 * values[:, 2], color=COLOURS[colour], alpha=0.18, lw=0)
            axes.plot(at, 100 * values[:, 0], color=COLOURS[colour], lw=1.8, marker="o", ms=3)
            highest = max(highest, *(e.value or 0.0 for e in found), float(np.median([e.high or 0.0 for e in found])))
        for change in changed:
            axes.axvline(change.at - 0.5, color=COLOURS["mark"], lw=1.4, ls=(0, (4, 3)))
        axes.set(ylabel="%", ylim=(0, min(100, max(0.1, 140 * highest))))  # wide intervals of few rows may be cut off
        _along(axes, buckets)

    return _chart(salt, draw)


def mentions_over_time(salt: str, buckets: Buckets, rows: Sequence[int], changed: Sequence[Change]) -> str:
    """Rows with a name per bucket; vertical lines where their share of all rows changes."""

    def draw(axes: Axes) -> None:
        _bars(axes, {"calm": rows}, len(buckets.starts))
        for change in changed:
            axes.axvline(change.at - 0.5, color=COLOURS["mark"], lw=1.4, ls=(0, (4, 3)))
        axes.set(ylabel="rows")
        _along(axes, buckets)

    return _chart(salt, draw)


def histogram(bins: Mapping[str, Sequence[int]]) -> str:
    """Rows per range of the score, on a logarithmic scale: those allowed beside those stopped."""

    def draw(axes: Axes) -> None:
        edges = np.arange(BINS) / BINS
        for colour, name, left in (("calm", "allow", 0.0), ("stop", "stopped", 0.5)):
            axes.bar(edges + left / BINS, bins[name], 0.46 / BINS, align="edge", color=COLOURS[colour])
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlabel="score", ylabel="rows", xlim=(0, 1), ylim=(0, None))
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set_xticks(np.linspace(0, 1, 11))

    return _chart("scores", draw)


def _stacked(salt: str, buckets: Buckets, series: Mapping[str, Sequence[int]], what: str) -> str:
    def draw(axes: Axes) -> None:
        _bars(axes, series, len(buckets.starts))
        axes.set(ylabel=what)
        _along(axes, buckets)

    return _chart(salt, draw)


def _bars(axes: Axes, series: Mapping[str, Sequence[int]], n: int) -> None:
    below = np.zeros(n)
    for colour, counts in series.items():
        axes.bar(np.arange(n), counts, 0.82, bottom=below, color=COLOURS[colour], lw=0)
        below = below + np.array(counts)
    axes.set_ylim(0, max(1.0, 1.05 * below.max()))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))


def _along(axes: Axes, buckets: Buckets) -> None:
    n = len(buckets.starts)
    at = np.unique(np.linspace(0, n - 1, min(n, _TICKS)).round().astype(int))
    axes.set_xticks(at, [buckets.label(buckets.starts[i]).replace(" ", "\n") for i in at])
    axes.set_xlim(-0.7, n - 0.3)


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _chart(salt: str, draw: Callable[[Axes], None]) -> str:
    def plain(axes: Axes) -> None:
        axes.patch.set_visible(False)
        axes.figure.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=COLOURS["faint"], lw=0.8)
        axes.set_axisbelow(True)
        draw(axes)

    ink = COLOURS["ink"]
    colours = {
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink,
        "font.size": 9, "ytick.major.size": 0, "xtick.major.size": 3,
    }  # fmt: skip
    with rc_context(colours):
        return drawn(plain, (_WIDE, _LOW), salt)
