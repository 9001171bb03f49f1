"""The lines of a text source: cut out of its stream, given back where a row did not need them, hashed where skipped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from guard.scan.row import Wanted
from guard.scan.source import Changed, Seal, Source
from guard.scan.streams import Stream, shown, stamp, weigh

MAX_ROW = 16 * 2**20  # bytes: beyond that, a quote was never closed or it is not a file of rows


class Lines:
    """Iterating gives lines with their ends; one longer than `MAX_ROW` comes in pieces of that size.

    A line ends with "\\n" or, if `returns`, also with "\\r" or "\\r\\n".
    """

    def __init__(self, pieces: Iterator[bytes], *, returns: bool) -> None:
        self._pieces = pieces
        self._returns = returns
        self._ready: list[bytes] = []  # lines to give, the next one last
        self._rest: list[bytes] = []  # the beginning of the line behind them
        self._rest_size = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                self._cut(b"".join(self._rest), at_end=True)
                if not self._ready:
                    raise StopIteration
            else:
                self._take(piece)
        return self._ready.pop()

    def back(self, lines: Sequence[bytes]) -> None:
        """Take back lines that were given, in their order."""
        self._ready.extend(reversed(lines))

    def skip_line(self, seal: Seal) -> tuple[int, bool]:
        """Skip the rest of a line of which only a beginning was given. Returns its size in bytes; has it an end?"""
        size = 0
        for piece in self:
            seal.update(piece)
            size += len(piece)
            if self.ends(piece):
                return size, True
        return size, False

    def skip(self, seal: Seal, size: int | None = None) -> int:
        """Skip so many bytes, or all that there are. Returns how many there were."""
        held = b"".join([*reversed(self._ready), *self._rest])
        self._ready, self._rest, self._rest_size = [], [], 0
        skipped = 0
        while True:
            part = held if size is None else held[: size - skipped]
            seal.update(part)
            skipped += len(part)
            if skipped == size:
                break
            piece = next(self._pieces, None)
            if piece is None:
                return skipped
            held = piece
        if len(part) < len(held):
            self._take(held[len(part) :])
        return skipped

    def _take(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._rest_size += len(piece)
        if b"\n" in piece or (self._returns and b"\r" in b"".join(self._rest[-2:])) or self._rest_size >= MAX_ROW:
            self._cut(b"".join(self._rest), at_end=False)

    def _cut(self, data: bytes, *, at_end: bool) -> None:
        """Make lines of `data`; the last one, if it may go on, is kept back."""
        lines = data.splitlines(True) if self._returns else data.split(b"\n")
        if not self._returns:
            last = lines.pop()
            lines = [line + b"\n" for line in lines]
            if last:
                lines.append(last)
        rest = b""
        if lines and not at_end and not lines[-1].endswith(b"\n"):  # also a "\r" whose "\n" may follow
            rest = lines.pop()
            if len(rest) > MAX_ROW:
                whole = len(rest) - len(rest) % MAX_ROW
                lines.append(rest[:whole])
                rest = rest[whole:]
        self._rest, self._rest_size = [rest] if rest else [], len(rest)
        if len(data) > MAX_ROW:
            lines = [line[at : at + MAX_ROW] for line in lines for at in range(0, len(line), MAX_ROW)]
        lines.reverse()
        self._ready = lines

    def ends(self, line: bytes) -> bool:
        """Is the line whole, with its end?"""
        return line.endswith((b"\n", b"\r") if self._returns else b"\n")


class TextSource(Source):
    """A source that is made of lines. `at` counts bytes, after decompression, in UTF-8, without a byte order mark."""

    returns = False  # does "\\r" end a line?

    def __init__(self, name: str, wanted: Wanted, encoding: str = "utf-8") -> None:
        super().__init__(shown(name), wanted)
        self._name = name
        self._stream = Stream(name, encoding)
        self._stamp: object = None
        self._pieces = _nothing()
        self._lines = Lines(self._pieces, returns=self.returns)

    def weigh(self) -> int:
        return weigh(self._name)

    def start(self, seal: Seal, at: int = 0, *, open_end: bool = False) -> None:
        self._open()
        head = self._head(self._lines)
        size = sum(map(len, head))
        if at <= size:
            at, open_end = size, bool(head) and not self._lines.ends(head[-1])
        self._lines.back(head)
        self.at, self.open_end = self._lines.skip(seal, at), open_end
        if self.at < at:
            raise Changed
        if open_end and (line := next(self._lines, None)) is not None:
            if line.strip(b"\r\n"):
                raise Changed  # the last line was longer than what was seen of it
            self._lines.back([line])

    def skip(self, seal: Seal) -> None:
        self._open()
        self.at = self._lines.skip(seal)

    def close(self) -> None:
        self._pieces.close()

    def changed(self) -> bool:
        return stamp(self._name) != self._stamp

    @property
    def share(self) -> float:
        return self._stream.share

    def _open(self) -> None:
        self._stamp = stamp(self._name)
        self._pieces = self._stream.pieces()
        self._lines = Lines(self._pieces, returns=self.returns)

    def _head(self, lines: Lines) -> list[bytes]:
        """Find out the columns. Returns the lines in front of the rows that were taken for it."""
        raise NotImplementedError

    def _passed(self, line: bytes, seal: Seal) -> None:
        """A line is done with: what comes next begins behind it."""
        seal.update(line)
        self.at += len(line)
        if not self._lines.ends(line):
            size, ended = self._lines.skip_line(seal)
            self.at += size
            self.open_end = not ended


def too_long(size: int) -> str:
    """What is wrong with a row of so many bytes, or nothing."""
    return f"longer than {MAX_ROW} bytes" if size >= MAX_ROW else ""


def _nothing() -> Generator[bytes]:
    yield from ()
