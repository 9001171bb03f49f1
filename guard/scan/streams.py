"""The bytes of a text file, wherever it lies: decompressed, in UTF-8, without a byte order mark, in pieces.

The one rule: a file that is cut off or damaged gives everything up to the damage, and then an `OSError`; it never just
ends.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Protocol

from guard.errors import InvalidFile

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd  # the writers compress with it

PIECE = 2**14  # bytes that are read at a time
_INFLATED = 2**17  # bytes that a decompressor may give at a time: a small file can hold a very large one
_WINDOW_LOG = 31  # of zstd: dumps are made with windows of 2 GiB
_MARKS = [  # the longer one first: UTF-16 begins as UTF-32 does
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
]  # fmt: skip
STDIN = "-"


def is_url(name: str) -> bool:
    """Is it something like `s3://bucket/file`, rather than a path?"""
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", name) is not None


def shown(name: str) -> str:
    """A URL without what may be secret in it: user, password, query. Any other name as it is.

    >>> shown("s3://key:secret@bucket/file.csv?signature=x"), shown("data/a@b.csv")
    ('s3://bucket/file.csv', 'data/a@b.csv')
    """
    if not is_url(name):
        return name
    scheme, _, rest = name.partition("://")
    rest = re.sub(r"^[^/?#]*:[^@]*@", "", rest)  # first, as a password may have any of "/?#" in it
    place, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises `InvalidFile`."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as cause:
        raise InvalidFile(
            f"{shown(url)}: a package is missing for this kind of URL.",
            hint="pip install guard-moderation[remote] serves s3:// and http(s)://; others: see fsspec.",
        ) from cause
    except Exception as cause:  # an unknown scheme is a ValueError, and each file system has errors of its own
        raise InvalidFile(f"{shown(url)}: not a URL that can be read.", hint="See fsspec for those known.") from cause
    return system, path


def known_encoding(name: str) -> str:
    """An encoding's usual name. Raises `InvalidFile` for one that is not known, or not of text."""
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refuses what is none of text, such as "base64"
        codec.incrementaldecoder(errors="replace").decode(b"a")
    except (LookupError, TypeError, ValueError) as cause:
        raise InvalidFile(
            f"{name!r} is not a known encoding.", hint="Name one such as utf-8, cp1252, latin-1 or utf-16."
        ) from cause
    return codec.name


class Stream:
    """One text file, which may be read again and again by its `pieces` (except standard input)."""

    def __init__(self, name: str, encoding: str = "utf-8") -> None:
        self.name = shown(name)
        self._name = name
        self._size = 0  # of the file; 0 if unknown
        self._read = 0  # bytes of it
        self._encoding = encoding

    @property
    def share(self) -> float:
        """Of the file that has been read, 0 to 1."""
        return min(1.0, self._read / self._size) if self._size else 0.0

    def pieces(self) -> Generator[bytes]:
        """What is in the file, in UTF-8 (bytes that are none are left for the reader to replace)."""
        pieces: Iterator[bytes] = self._raw()
        kind = Path(self.name).suffix.lower()
        if kind in _DECOMPRESSORS:
            pieces = _inflated(pieces, _DECOMPRESSORS[kind])
        return _recoded(pieces, self._encoding)

    def _raw(self) -> Generator[bytes]:
        self._read = 0
        if self._name == STDIN:
            yield from self._pieces_of(sys.stdin.buffer)
        elif is_url(self._name):
            system, path = filesystem(self._name)
            self._size = far(system.size, path) or 0
            with closing(far(system.open, path, "rb")) as file:
                yield from self._pieces_of(file)
        else:
            with open(self._name, "rb") as file:
                self._size = os.fstat(file.fileno()).st_size
                yield from self._pieces_of(file)

    def _pieces_of(self, file: IO[bytes]) -> Iterator[bytes]:
        while piece := far(file.read, PIECE):
            self._read += len(piece)
            yield piece


def weigh(name: str) -> int:
    """The size in bytes of a file as it lies there; at least 1."""
    if name == STDIN:
        return 1
    if is_url(name):
        system, path = filesystem(name)
        return far(system.size, path) or 1
    return os.path.getsize(name) or 1


def stamp(name: str) -> object:
    """What would be different had the file been written to in the meantime."""
    if name == STDIN:
        return None
    if is_url(name):
        system, path = filesystem(name)
        system.invalidate_cache()
        return str(far(system.info, path))
    found = os.stat(name)
    return found.st_size, found.st_mtime_ns, found.st_ino


def copied(url: str, to: IO[bytes]) -> None:
    """Write what is at a URL to a file."""
    system, path = filesystem(url)
    with closing(far(system.open, path, "rb")) as file:
        while piece := far(file.read, _INFLATED):
            to.write(piece)
    to.flush()


def far(call: Any, *arguments: Any) -> Any:
    """What a call to a file system gives; each of them has errors of its own, so all become `OSError`."""
    try:
        return call(*arguments)
    except OSError:
        raise
    except Exception as cause:
        raise OSError(f"{type(cause).__name__} while it was read") from cause


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def inflate(self, data: bytes) -> tuple[bytes, bool]:
        """Some of what is in `data`, and whether there is more of it; ask with nothing for that."""


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def inflate(self, data: bytes) -> tuple[bytes, bool]:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, _INFLATED)
        return found, bool(self._inner.unconsumed_tail) or len(found) == _INFLATED


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def inflate(self, data: bytes) -> tuple[bytes, bool]:
        found = self._inner.decompress(data, _INFLATED)
        return found, not self._inner.needs_input


_DECOMPRESSORS: dict[str, type[_Gzip] | type[_Zstd]] = {".gz": _Gzip, ".zst": _Zstd}
COMPRESSED = tuple(_DECOMPRESSORS)


def _inflated(pieces: Iterator[bytes], kind: type[_Gzip] | type[_Zstd]) -> Iterator[bytes]:
    """Members (or frames) one after the other, as `cat a.gz b.gz` makes them. Zeros behind the last are padding."""
    inner: _Decompressor | None = None
    first = True
    for piece in pieces:
        while piece:
            if inner is None:
                if not first and not piece.strip(b"\0"):
                    break
                inner, first = kind(), False
            try:
                found, more = inner.inflate(piece)
                while True:
                    if found:
                        yield found
                    if inner.eof or not more:
                        break
                    found, more = inner.inflate(b"")
            except (zlib.error, zstd.ZstdError) as cause:
                raise OSError("its compressed data is damaged") from cause
            piece = b""
            if inner.eof:
                piece, inner = inner.unused_data, None
    if inner is not None or first:
        raise OSError("it is cut off in the middle of its compressed data")


def _recoded(pieces: Iterator[bytes], encoding: str) -> Generator[bytes]:
    """In UTF-8. A byte order mark says what a file is written in, whatever else was said."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= 4:
            break
    for mark, marked in _MARKS:
        if start.startswith(mark):
            start, encoding = start[len(mark) :], marked
            break
    if encoding == "utf-8":
        yield start
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    try:
        yield decoder.decode(start).encode("utf-8", "surrogatepass")
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeError as cause:  # of an encoding that cannot replace
        raise OSError(f"it is not written in {encoding}") from cause
