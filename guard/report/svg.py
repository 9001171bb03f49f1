"""A drawing of matplotlib as an SVG that stands in a page itself: the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def drawn(draw: Callable[[Axes], None], size: tuple[float, float] = (4.8, 3.6), salt: str = "guard") -> str:
    """What `draw` draws on axes, as `<svg ...>`; `size` in inches. Pictures of one page need different salts."""
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
