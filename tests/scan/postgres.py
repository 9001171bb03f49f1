"""A real PostgreSQL server for tests, on this machine, for as long as they run.

It is started only where its programs are found (Debian's `postgresql`); it does not run as root, so there it takes the
user that came with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOUND = all(map(shutil.which, ("pg_ctl", "initdb")))
PASSWORD = "secret?p/w@"  # everything that could break a URL's parts
_USER = "postgres"


@contextmanager
def server() -> Iterator[str]:
    """The folder of its socket; the user `guard` may do everything, and needs the password."""
    folder = Path(tempfile.mkdtemp(prefix="guard-pg-", dir="/tmp"))  # a socket's path has to be short
    password = folder / "password"
    password.write_text(PASSWORD)
    try:
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, _USER)
        data = str(folder / "data")
        _run("initdb", "-D", data, "-U", "guard", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-A", "password",
             f"--pwfile={password}")  # fmt: skip
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=20"
        _run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield str(folder)
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _run(*command: str) -> None:
    before = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
    subprocess.run([*before, *command], check=True, stdout=subprocess.DEVNULL, timeout=60, cwd="/")
