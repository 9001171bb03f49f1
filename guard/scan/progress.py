"""How far a scan is, said on standard error: a bar on a terminal, lines elsewhere, or JSON for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from guard.scan.scan import Now

_EVERY = 5.0  # seconds between two lines


class Told:
    """Keeps time, and turns each `Now` into figures. As a context: what is open on the screen is closed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: Now | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, now: Now) -> None:
        """Say it."""
        raise NotImplementedError

    def figures(self, now: Now) -> tuple[float, float | None]:
        """Rows a second of this run, and the seconds that are left, if that can be told."""
        first = self._first = self._first or now
        seconds = time.monotonic() - self._started
        rate = (now.rows - first.rows) / seconds if seconds else 0.0
        share = now.share - first.share
        return rate, seconds / share * (1 - now.share) if share > 0 else None


class Lines(Told):
    """A line every few seconds; a bar, if it is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        console = Console(stderr=True)
        self._bar = Progress(BarColumn(), TextColumn("{task.description}", markup=False), console=console)
        self._live = console.is_terminal
        self._said = self._started

    def __enter__(self) -> Self:
        if self._live:
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, now: Now) -> None:
        rate, left = self.figures(now)
        time_left = "time left unknown" if left is None else f"{clock(left)} left"
        found = f"{now.flagged:,} flagged" + (f", {now.errors:,} without a verdict" if now.errors else "")
        line = f"{now.rows:,} rows, {now.share:.0%}, {per_second(rate)}, {time_left}, {found}"
        if self._live:
            self._bar.update(self._task, completed=now.share, description=line)
        elif time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            print(line, file=sys.stderr, flush=True)


class Json(Told):
    """An object per sign of life, of which there is one for each 256 texts."""

    def __call__(self, now: Now) -> None:
        rate, left = self.figures(now)
        said = {
            "rows": now.rows,
            "share": round(now.share, 6),
            "rows_per_second": round(rate, 2),
            "seconds_left": None if left is None else round(left, 1),
            "flagged": now.flagged,
            "errors": now.errors,
        }
        print(json.dumps(said), file=sys.stderr, flush=True)


def per_second(rate: float) -> str:
    """A rate in words."""
    return f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.1f} rows/s"


def clock(seconds: float) -> str:
    """
    >>> clock(3725.4), clock(float("inf"))
    ('1:02:05', 'unknown')
    """
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
