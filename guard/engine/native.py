"""The CPU's own kernels: `kernels.cpp`, built by the machine's compiler at first use and called through ctypes.

The one rule: whatever is missing (a compiler, a folder to write to, a shape that the kernels take), the portable
kernels do the work instead. A build takes a few seconds and is kept in the user's cache folder under a name that
depends on source, compiler, flags and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from guard.engine.attention import Geometry, Kept, Rotary, rms_norm
from guard.engine.layers import Norm
from guard.engine.tree import Plan

_log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
_MOST_SECONDS = 180  # for a build
_LARGEST_HEAD = 512  # numbers, and
_LARGEST_GROUP = 48  # query heads per key-value head: what the kernels' buffers hold
_DTYPES = (torch.bfloat16, torch.float32)


class BuildFailed(Exception):
    """Why there are no native kernels here."""


@dataclass(frozen=True)
class _Nodes:
    """Which queries the nodes have: (nodes + 1,) and (M,), int64."""

    first_query: Tensor
    query_position: Tensor


@dataclass(frozen=True)
class _NativeLayout:
    rows: Tensor
    trees: Tensor
    start: Tensor
    end: Tensor
    position: Tensor
    nodes: tuple[_Nodes, _Nodes]  # with all queries, with those that are read
    prefix_length: int
    longest_path: int


class NativeKernels:
    """Raises `BuildFailed`, also for a geometry that the kernels do not take."""

    name = "native"

    def __init__(self, geometry: Geometry, rotary: Rotary) -> None:
        size, group = geometry.head_size, geometry.num_heads // geometry.num_kv_heads
        if size % 2 or size > _LARGEST_HEAD or group > _LARGEST_GROUP:
            raise BuildFailed(f"heads of {size} numbers in groups of {group} are not supported")
        if geometry.soft_cap is not None or rotary.size != size:
            raise BuildFailed("soft-capped scores and heads that are rotated in part are not supported")
        self._library = library()
        self.geometry, self._rotary = geometry, rotary

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        if norm.weight.dtype is not x.dtype:  # Gemma's gains are float32 in any case
            return rms_norm(x, norm)
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, size = x.shape
        self._library.guard_norm(
            _is_bf16(x), torch.get_num_threads(), _at(x), _at(norm.weight), norm.epsilon, rows, size, _at(out)
        )
        return out

    def layout(self, made: Plan, past: int | Tensor) -> _NativeLayout:
        if not isinstance(past, int):
            raise TypeError("the native kernels take a past that begins at position 0, in order")
        starts, ends = [node.start for node in made.nodes], [node.end for node in made.nodes]

        def nodes(read_only: bool) -> _Nodes:
            queries = made.queries(read_only)
            first = [0]
            for own in queries:
                first.append(first[-1] + len(own))
            return _Nodes(_ints(first), _ints([made.positions[i] for own in queries for i in own]))

        return _NativeLayout(
            rows=_ints(made.rows),
            trees=_ints(made.trees),
            start=_ints(starts),
            end=_ints(ends),
            position=_ints([made.positions[start] for start in starts]),
            nodes=(nodes(False), nodes(True)),
            prefix_length=past,
            longest_path=max(made.positions) + 1 - past,
        )

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, layout: _NativeLayout, before: Kept | None, read_only: bool
    ) -> Tensor:
        shape, nodes = self.geometry, layout.nodes[read_only]
        q, out = _rows(q), torch.empty(q.shape, dtype=q.dtype)
        k, v = _rows(k), _rows(v)
        if k.stride(0) != v.stride(0):
            k, v = k.contiguous(), v.contiguous()
        cos, sin = self._rotary.tables(layout.prefix_length + layout.longest_path)
        self._library.guard_attend(
            _is_bf16(q), torch.get_num_threads(), shape.num_heads, shape.num_kv_heads, shape.head_size,
            layout.prefix_length, shape.window or 0, shape.scale, _at(q), q.stride(0), _at(k), _at(v), k.stride(0),
            _at(cos), _at(sin), _at(before.keys if before else None), _at(before.values if before else None),
            len(layout.trees) - 1, _at(layout.trees), _at(layout.start), _at(layout.end), _at(layout.position),
            _at(nodes.first_query), _at(nodes.query_position), layout.longest_path, _at(out),
        )  # fmt: skip
        return out

    def keep(self, k: Tensor, v: Tensor) -> Kept:
        shape, length = self.geometry, len(k)
        k, v = k.contiguous(), v.contiguous()
        cos, sin = self._rotary.tables(length)
        kept = Kept(*(
            torch.zeros(
                self._library.guard_packed_bytes(_is_bf16(k), which, shape.num_kv_heads, shape.head_size, length),
                dtype=torch.uint8,
            )
            for which in (0, 1)
        ))  # fmt: skip
        self._library.guard_pack(
            _is_bf16(k), torch.get_num_threads(), shape.num_kv_heads, shape.head_size, _at(k), _at(v), k.stride(0),
            _at(cos), _at(sin), length, _at(kept.keys), _at(kept.values),
        )  # fmt: skip
        return kept


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _rows(x: Tensor) -> Tensor:
    """`x` with its rows' numbers side by side; the rows themselves may stand apart."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_bf16(x: Tensor) -> bool:
    if x.dtype not in _DTYPES or x.device.type != "cpu":
        raise TypeError(f"the native kernels take {_DTYPES} on the CPU, not {x.dtype} on {x.device}")
    return x.dtype is torch.bfloat16


@cache
def library() -> ctypes.CDLL:
    """The kernels, built if they are not yet. Raises `BuildFailed`."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if sys.platform != "linux" or compiler is None:
        raise BuildFailed("no C++ compiler on the path" if sys.platform == "linux" else f"not built on {sys.platform}")
    try:
        path = _built(compiler)
        # torch has loaded its OpenMP library for everybody to see, so the kernels run on torch's own threads
        return _declared(ctypes.CDLL(str(path)))
    except (OSError, subprocess.SubprocessError) as cause:
        raise BuildFailed(f"{type(cause).__name__}: {cause}") from cause


def _built(compiler: str) -> Path:
    name = _name(compiler)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guard"
    path = folder / name
    if path.is_file():
        return path
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="guard-"))  # nobody else can write there
    with tempfile.TemporaryDirectory(dir=folder) as making:
        made = Path(making) / name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MOST_SECONDS)
        if done.returncode:
            raise BuildFailed(f"{compiler} failed: {done.stderr.strip()[-400:]}")
        made.replace(folder / name)  # in one step: another process may be building too
    _log.info("built %s", folder / name)
    return folder / name


def _name(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_MOST_SECONDS).stdout
    processor = Path("/proc/cpuinfo").read_text(errors="replace")
    flags = next((line for line in processor.splitlines() if line.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(_SOURCE.read_bytes())
    digest.update(repr((version, _FLAGS, flags)).encode())
    return f"kernels-{digest.hexdigest()[:16]}.so"


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """Argument types: i a flag or count of 32 bits, l 64 bits, f a float, p an address."""
    kinds = {"i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p}
    signatures = {
        "guard_norm": "ii pp f ll p",
        "guard_pack": "ii ll pp l pp l pp",
        "guard_attend": "ii lllll f p l pp l pp pp l pppppp l p",
        "guard_packed_bytes": "ii lll",
    }
    for name, signature in signatures.items():
        function = getattr(found, name)
        function.argtypes = [kinds[kind] for kind in signature.replace(" ", "")]
        function.restype = ctypes.c_int64 if name == "guard_packed_bytes" else None
    return found
