"""What a key may still ask: two buckets, of requests and of tokens, that fill up again as time goes by.

The one rule: nothing is taken from a bucket that does not hold it, and whoever is refused learns when it will.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, MutableMapping

from guard.errors import RateLimited
from guard.keys import Key

_BYTES = 4  # of UTF-8 per token, roughly


class Bucket:
    """`limit` a minute, and at most so many at once.

    What is larger than the whole bucket is taken from a full one and leaves a debt, since it would else never pass.

    >>> bucket = Bucket(60, now=0.0)
    >>> bucket.take(59, now=0.0), bucket.take(2, now=0.0), bucket.take(2, now=1.0)
    (0.0, 1.0, 0.0)
    >>> bucket.take(90, now=61.0), bucket.left(now=61.0), bucket.full_in(now=61.0)
    (0.0, 0, 90.0)
    """

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def take(self, n: int, now: float) -> float:
        """0 when `n` were taken, else the seconds until they could be, and nothing was."""
        self._fill(now)
        missing = min(n, self.limit) - self._level
        if missing > 0:
            return missing * 60 / self.limit
        self._level -= n
        return 0.0

    def left(self, now: float) -> int:
        self._fill(now)
        return max(0, math.floor(self._level))

    def full_in(self, now: float) -> float:
        """Seconds until nothing is missing."""
        self._fill(now)
        return (self.limit - self._level) * 60 / self.limit

    def _fill(self, now: float) -> None:
        self._level = min(float(self.limit), self._level + (now - self._at) * self.limit / 60)
        self._at = now


class Limits:
    """The buckets of one key, which all of its requests share."""

    def __init__(self, key: Key) -> None:
        now = time.monotonic()
        wanted = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        self.buckets = {what: Bucket(limit, now) for what, limit in wanted.items() if limit is not None}


class Allowance:
    """One request's hand in its key's buckets; what they hold then goes into the headers of its answer."""

    def __init__(self, limits: Limits, headers: MutableMapping[str, str]) -> None:
        self._buckets = limits.buckets
        self._headers = headers

    def take_request(self) -> None:
        """Raises `RateLimited`."""
        self._take("requests", 1)

    def take_tokens(self, n: int) -> None:
        """Raises `RateLimited`."""
        self._take("tokens", n)

    def _take(self, what: str, n: int) -> None:
        now = time.monotonic()
        bucket = self._buckets.get(what)
        wait = bucket.take(n, now) if bucket else 0.0
        for name, each in self._buckets.items():
            self._headers[f"x-ratelimit-limit-{name}"] = str(each.limit)
            self._headers[f"x-ratelimit-remaining-{name}"] = str(each.left(now))
            self._headers[f"x-ratelimit-reset-{name}"] = duration(each.full_in(now))
        if bucket and wait:
            raise RateLimited(
                f"The key may ask for {bucket.limit} {what} a minute, and has.", hint="Try again later.",
                retry_after=math.ceil(wait),
            )  # fmt: skip


def estimated_tokens(texts: Iterable[str]) -> int:
    """Roughly, before anything is tokenised: at least one for each text.

    >>> estimated_tokens(["", "four", "fünf!"])
    4
    """
    return sum(max(1, math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES)) for text in texts)


def duration(seconds: float) -> str:
    """As OpenAI's headers write one.

    >>> duration(0), duration(0.0121), duration(0.9999), duration(59.2), duration(61)
    ('0ms', '13ms', '1s', '1m0s', '1m1s')
    """
    if (ms := math.ceil(seconds * 1000)) < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
