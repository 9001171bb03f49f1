import threading
import time

import pytest

from guard.scan.ahead import ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "guard-scan-read"]


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_the_items_come_in_order(depth):
    assert list(ahead(iter(range(50)), depth)) == list(range(50))
    assert list(ahead(iter(()), depth)) == []
    assert not threads()


def test_items_are_made_before_they_are_asked_for_and_no_more_than_so_many():
    made = []
    items = ahead((made.append(number) or number for number in range(50)), 3)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]  # one given, three waiting, one in the hands of the thread
    items.close()
    assert not threads()


def test_what_is_raised_in_the_thread_is_raised_here_behind_the_items_before_it():
    def broken():
        yield 1
        yield 2
        raise KeyError("no more")

    items = ahead(broken(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="no more"):
        next(items)
    assert not threads()
