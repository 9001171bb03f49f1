"""Work that is done ahead: an iterator that runs in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
_LOOK = 0.1  # seconds after which a thread that waits looks whether it is still wanted


def ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    What `items` raises is raised here, at its place. Closing the generator ends the thread.
    """
    made: Queue[tuple[T | None, BaseException | None, bool]] = Queue(depth)
    unwanted = threading.Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> None:
        while not unwanted.is_set():
            with suppress(Full):
                return made.put(entry, timeout=_LOOK)

    def work() -> None:
        try:
            for item in items:
                put((item, None, False))
                if unwanted.is_set():
                    return
            put((None, None, True))
        except BaseException as cause:
            put((None, cause, True))

    thread = threading.Thread(target=work, name="guard-scan-read", daemon=True)
    thread.start()
    try:
        while True:
            item, cause, ended = made.get()
            if cause is not None:
                raise cause
            if ended:
                return
            yield item  # type: ignore[misc]  # an entry that ends nothing holds an item
    finally:
        unwanted.set()
        thread.join()
