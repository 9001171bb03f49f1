"""The rows that a query to a database gives. (Being written.)"""

from __future__ import annotations

from guard.scan.row import Wanted
from guard.scan.source import Source
from guard.scan.streams import shown

_SCHEMES = ("sqlite", "postgresql", "postgres")


def is_database(name: str) -> bool:
    """Is it the URL of a database?"""
    return name.partition(":")[0].partition("+")[0].lower() in _SCHEMES and "://" in name


class DatabaseSource(Source):
    def __init__(self, url: str, wanted: Wanted, query: str | None, order: str | None) -> None:
        super().__init__(shown(url), wanted)
        raise NotImplementedError
