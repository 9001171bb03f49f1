"""The native kernels' build: had wherever there is a compiler, kept, rebuilt when anything changes, done without."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from guard.engine import native
from guard.engine.attention import Geometry, Rotary
from guard.engine.layers import Norm
from guard.engine.native import BuildFailed, NativeKernels, library

ROTARY = Rotary(torch.ones(4))


@pytest.fixture()
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    yield tmp_path / "guard"
    library.cache_clear()


@pytest.fixture()
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a script in the compiler's place, the only thing on the path besides a shell's own."""

    def install(script: str) -> None:
        place = tmp_path / "bin"
        place.mkdir()
        (place / "c++").write_text(f"#!/bin/sh\n{script}\n")
        (place / "c++").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")

    return install


def has_compiler() -> bool:
    return sys.platform == "linux" and any(map(shutil.which, ("c++", "g++", "clang++")))


def test_where_there_is_a_compiler_there_are_native_kernels():
    """Else every test of them would quietly be one of the portable ones."""
    try:
        built = bool(library())
    except BuildFailed:
        built = False
    assert built == has_compiler()


def test_without_a_compiler_there_is_a_reason(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildFailed, match="compiler"):
        library()
    assert not fresh.exists()


def test_another_system_is_not_tried(fresh, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BuildFailed, match="win32"):
        library()


def test_a_compiler_that_fails_says_why(fresh, compiler):
    compiler('[ "$1" = --version ] && echo 1.0 && exit 0; echo "out of luck" >&2; exit 1')
    with pytest.raises(BuildFailed, match="out of luck"):
        library()
    assert list(fresh.iterdir()) == []


def test_a_compiler_that_makes_rubbish_is_found_out(fresh, compiler):
    compiler('[ "$1" = --version ] && echo 1.0 && exit 0; for last; do :; done; echo rubbish > "$last"')
    with pytest.raises(BuildFailed):
        library()


def test_a_compiler_that_hangs_is_given_up(fresh, compiler, monkeypatch):
    monkeypatch.setattr(native, "_MOST_SECONDS", 0.3)
    compiler('[ "$1" = --version ] && echo 1.0 && exit 0; exec sleep 20')
    with pytest.raises(BuildFailed, match="Timeout"):
        library()


def test_the_build_is_kept_and_depends_on_what_made_it(fresh, monkeypatch):
    if not has_compiler():
        return
    library()
    (first,) = fresh.iterdir()
    made = first.stat().st_mtime_ns
    library.cache_clear()
    library()
    assert first.stat().st_mtime_ns == made
    library.cache_clear()
    monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, "-DOTHER"))
    library()
    assert len(list(fresh.iterdir())) == 2


def test_two_builds_at_once_do_not_meet(fresh):
    if not has_compiler():
        return
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    threads = [threading.Thread(target=native._built, args=(compiler,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = fresh.iterdir()
    assert kept.suffix == ".so"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, fresh):
    if not has_compiler():
        return
    tmp_path.joinpath("guard").write_text("a file where the folder would be")
    assert library()


@pytest.mark.parametrize(
    "geometry", [Geometry(2, 2, 7, None, 1.0), Geometry(2, 2, 514, None, 1.0), Geometry(49, 1, 8, None, 1.0)]
)
def test_shapes_that_the_buffers_do_not_hold_are_refused(geometry):
    with pytest.raises(BuildFailed, match="not supported"):
        NativeKernels(geometry, ROTARY)


def test_numbers_of_another_type_are_refused():
    if not has_compiler():
        return
    kernels = NativeKernels(Geometry(1, 1, 8, None, 1.0), ROTARY)
    with pytest.raises(TypeError, match="float64"):
        kernels.norm(torch.ones(2, 8, dtype=torch.float64), Norm(torch.ones(8, dtype=torch.float64), 1e-5))


def test_the_kernels_run_on_torchs_own_threads():
    """Two thread pools would fight for the cores: the library must use the OpenMP that torch has loaded."""
    if not has_compiler():
        return
    code = """
import os, torch
from guard.engine.native import library
def threads(): return len(os.listdir("/proc/self/task"))
x, out, weight = torch.ones(64, 1024), torch.empty(64, 1024), torch.ones(1024)
torch.set_num_threads(3)
torch.mm(torch.ones(512, 512), torch.ones(512, 512)), torch.ones(10**7).sum()
before = threads()
library().guard_norm(0, 3, x.data_ptr(), weight.data_ptr(), 1e-5, 64, 1024, out.data_ptr())
print(threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr
