"""Scans a file again and again, and dies at a chosen moment each time, until it gets to the end.

    python -m tests.scan.kills IN OUT ROWS_OF_A_BLOCK

The moments are not of the clock but of what the process does: the n-th time that it opens, renames or removes a file,
or has scored texts. It is a program of its own because it forks, which a process with threads must not. Prints the
number of its deaths.
"""

import os
import signal
import sys

import polars  # noqa: F401  # before the forks: importing it opens a thousand files, at each of which it would die

from guard.engine.fake import FakeEngine
from guard.item import Kind
from guard.moderator import Moderator
from guard.resources import shipped
from guard.scan import blocks, judge
from guard.scan.columns import Columns
from guard.scan.job import Job
from guard.scan.scan import scan
from guard.tokenizer import load_tokenizer

EVENTS = ("open", "os.rename", "os.remove", "guard.scored")


def main(source, out, rows):
    blocks.ROWS = int(rows)
    blocks.WINDOW = judge.WINDOW = 2
    moderator = Moderator(FakeEngine(), load_tokenizer(shipped("models") / "embedded"))
    job = Job((source,), out, moderator.policies.get("self-reflection"), Kind.PROMPT, Columns(id="id"))
    deaths = 0
    while died(
        1 + deaths * 7 % (19 + deaths),
        lambda: scan(moderator, job, on_progress=lambda now: sys.audit("guard.scored")),
    ):
        deaths += 1
        if os.path.exists(out):
            print("output after death", deaths, flush=True)
    print(deaths)


def died(at, action):
    """Do something in a child that is killed at event number `at`; was it?"""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status == signal.SIGKILL
    left = [at]

    def hear(event, _):
        if event in EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    try:
        action()
    except BaseException as cause:
        print(repr(cause), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
