"""Newcombe's interval for the difference of paired rates, written out from four counts."""

from guard.measure.intervals import wilson


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float, float]:
    """(low, difference, high) by method 10 of 1998: a pairs right both times, b only before, c only after, d never."""
    n = a + b + c + d
    (low1, high1), (low2, high2) = wilson(a + b, n), wilson(a + c, n)
    p1, p2 = (a + b) / n, (a + c) / n
    product = (a + b) * (c + d) * (a + c) * (b + d)
    top = a * d - b * c
    phi = 0.0 if product == 0 else (max(top - n / 2, 0) if top > 0 else top) / product**0.5
    low = ((p2 - low2) ** 2 - 2 * phi * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2) ** 0.5
    high = ((high2 - p2) ** 2 - 2 * phi * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2) ** 0.5
    return p2 - p1 - low, p2 - p1, p2 - p1 + high
