"""The rows of a Parquet file, a slice at a time. The text is a column of strings (or of UTF-8 bytes).

The one rule: the bytes of such a file say little about its rows, so it is the rows' content that is sealed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from guard.errors import InvalidFile
from guard.scan.row import Row, Wanted, as_text, broken
from guard.scan.source import Changed, Seal, Source, content
from guard.scan.streams import copied, is_url, shown, stamp, weigh

if TYPE_CHECKING:
    import polars as pl

_FIRST, _LARGEST = 16, 8192  # rows that are held at a time, at first and at most
_BYTES = 2**24  # that they should take: large slices are faster, as each is looked for from the start of its row group


class ParquetSource(Source):
    """`at` counts rows. A file that is not on this machine is copied to a temporary one, as it is not read in order."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        super().__init__(shown(name), wanted)
        self._name = name
        self._stamp: object = None
        self._copy: IO[bytes] | None = None
        self._rows: pl.LazyFrame
        self._total = 0

    @property
    def share(self) -> float:
        return self.at / self._total if self._total else 0.0

    def weigh(self) -> int:
        return weigh(self._name)

    def start(self, seal: Seal, at: int = 0, *, open_end: bool = False) -> None:
        self._open()
        if at > self._total:
            raise Changed
        for _ in self._values(seal, 0, at):
            pass

    def rows(self, seal: Seal, before: int) -> Iterator[Row]:
        text_column, id_column, more_columns, _ = self.wanted
        more = [name for name in more_columns if name in self.columns]
        for number, values in enumerate(self._values(seal, self.at, self._total), before + 1):
            id_ = str(number) if id_column is None else as_text(values[1])
            text = values[0]
            if text is None:
                yield Row(number, id_, "", broken(number, f"{text_column!r} is null"))
            else:
                cells = dict(zip(more, values[-len(more) :], strict=True)) if more else {}
                text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
                yield Row(number, id_, text, more=cells)

    def skip(self, seal: Seal) -> None:
        self._open()
        for _ in self._values(seal, 0, self._total):
            pass

    def close(self) -> None:
        if self._copy:
            self._copy.close()
            self._copy = None

    def changed(self) -> bool:
        return stamp(self._name) != self._stamp

    def _open(self) -> None:
        import polars as pl

        self.at = 0
        self._stamp = stamp(self._name)
        path = self._name
        if is_url(path):
            self._copy = NamedTemporaryFile(suffix=".parquet")  # noqa: SIM115 (`close` does)
            copied(self._name, self._copy)
            path = self._copy.name
        with self._errors():
            # the path is no pattern: `a[1].parquet` is a file of that name
            file = pl.scan_parquet(path, glob=False)
            schema = file.collect_schema()
            self.columns = tuple(schema.names())
            self.wanted.require(self.columns, self.name)
            text = schema[self.wanted.text]
            if not isinstance(text, (pl.String, pl.Binary, pl.Categorical, pl.Enum)):
                raise InvalidFile(
                    f"{self.name}: column {self.wanted.text!r} holds {text}, not text.",
                    hint=f"The columns are: {', '.join(map(repr, self.columns))}.",
                )
            self._rows = file
            self._total = file.select(pl.len()).collect().item()

    def _values(self, seal: Seal, start: int, end: int) -> Iterator[Sequence[Any]]:
        """The cells of text, id and more of each row; `at` and the seal follow."""
        import polars as pl

        text, id_, more, _ = self.wanted
        names = [text, *([id_] if id_ else []), *(name for name in more if name in self.columns)]
        # by their exact names: a plain string such as "^a.*$" is a pattern to polars
        columns = self._rows.select(pl.selectors.by_name(set(names)))
        rows = _FIRST
        while start < end:
            with self._errors():
                part = columns.slice(start, min(rows, end - start)).collect()
                lists = [part[name].to_list() for name in names]
            start += part.height
            rows = max(1, min(_LARGEST, rows * 64, _BYTES * part.height // max(1, int(part.estimated_size()))))
            for values in zip(*lists, strict=True):
                seal.update(content(values))
                self.at += 1
                yield values

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import polars as pl

        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as cause:
            problem = str(cause).partition("\n")[0]
            raise InvalidFile(f"{self.name}: not a readable Parquet file: {problem}.", hint="Check it.") from cause
