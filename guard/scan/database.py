"""The rows that a query to a database gives, in the order of columns that tell its rows apart.

The one rule: a page of rows begins behind the key of the last row of the page before, so a key that is missing or
stands twice is refused: rows could get lost behind it.

Between pages nothing is held open. So a scan that takes a night keeps no lock, and no old row alive in the database;
and what is changed behind the rows that were read is noticed by the seal when a scan goes on, not before.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guard.errors import InvalidFile
from guard.scan.row import Row, Wanted, as_text, broken
from guard.scan.source import Changed, Seal, Source, content
from guard.scan.streams import shown

if TYPE_CHECKING:
    import sqlalchemy as sa

_PAGE = 1000  # rows of a page
_HASHED_PAGE = 100_000  # of one whose rows are only hashed
_FETCHED = 100  # rows that are held at a time
_SCHEMES = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def is_database(name: str) -> bool:
    """Is it the URL of a database?"""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme.partition("+")[0].lower() in _SCHEMES


class DatabaseSource(Source):
    """`at` counts rows. Transactions are read-only. `order` names columns of the query, by commas."""

    def __init__(self, url: str, wanted: Wanted, query: str | None, order: str | None) -> None:
        super().__init__(shown(url), wanted)
        self._order = [name.strip() for name in (order or "").split(",") if name.strip()]
        if not query or not query.strip():
            raise InvalidFile(f"{self.name}: a database needs a query.", hint="For instance: SELECT id, text FROM post")
        if not self._order:
            raise InvalidFile(
                f"{self.name}: a database needs an order.", hint="Name the column that tells the rows apart, as id."
            )
        self._query = query.strip().rstrip(";")
        self._engine = self._engine_of(url)
        self._connection: sa.Connection | None = None
        self._total = 0
        self._last: list[Any] = []  # the key of the row at `at`

    @property
    def share(self) -> float:
        return min(1.0, self.at / self._total) if self._total else 0.0

    def start(self, seal: Seal, at: int = 0, *, open_end: bool = False) -> None:
        self._open()
        for _ in self._values(seal, at):
            pass
        if self.at < at:
            raise Changed

    def rows(self, seal: Seal, before: int) -> Iterator[Row]:
        text_column, id_column, more, _ = self.wanted
        for number, values in enumerate(self._values(seal), before + 1):
            id_ = str(number) if id_column is None else as_text(values[id_column])
            text = values[text_column]
            if isinstance(text, bytes):
                text = text.decode("utf-8", "replace")
            if isinstance(text, str):
                yield Row(number, id_, text, more={name: values[name] for name in more if name in values})
            else:
                what = "null" if text is None else f"of type {type(text).__name__}, not text"
                yield Row(number, id_, "", broken(number, f"{text_column!r} is {what}"))

    def skip(self, seal: Seal) -> None:
        self._open()
        for _ in self._values(seal, self._total):
            pass

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def changed(self) -> bool:
        """Told by the number of rows alone."""
        with self._errors():
            return self._count() != self.at

    def _engine_of(self, url: str) -> sa.Engine:
        try:
            import sqlalchemy as sa

            found = sa.make_url(url)
            if "+" not in found.drivername:
                found = found.set(drivername=_SCHEMES[found.drivername.lower()])
            if found.get_backend_name() == "sqlite" and not Path(found.database or "").is_file():
                raise InvalidFile(f"{self.name}: no such file.", hint="sqlite:///forum.db is the file forum.db here.")
            self._password = found.password
            return sa.create_engine(found, poolclass=sa.NullPool, hide_parameters=True)
        except ImportError as cause:
            raise InvalidFile(
                f"{self.name}: a package for databases is missing.", hint="pip install guard-moderation[sql]"
            ) from cause
        except sa.exc.ArgumentError as cause:
            raise InvalidFile(
                f"{self.name}: not the URL of a database.", hint="For instance: postgresql://user@host/forum"
            ) from cause

    def _open(self) -> None:
        self.at = 0
        with self._errors():
            self._connection = self._engine.connect().execution_options(postgresql_readonly=True)
            if self._engine.name == "sqlite":
                self._connection.exec_driver_sql("PRAGMA query_only = ON")
            else:
                self._connection.exec_driver_sql("SET TIME ZONE 'UTC'")  # in which times are read and hashed
            with self._said(f"SELECT * FROM {self._from} LIMIT 0") as result:
                self.columns = tuple(result.keys())
            self.wanted.require(self.columns, self.name)
            for name in self._order:
                Wanted(name).require(self.columns, self.name)
            self._total = self._count()
            self._check_order()

    def _check_order(self) -> None:
        keys = ", ".join(map(self._quoted, self._order))
        nulls = " OR ".join(f"{self._quoted(name)} IS NULL" for name in self._order)
        for problem, sql in (
            ("is missing in some row", f"SELECT 1 FROM {self._from} WHERE {nulls} LIMIT 1"),
            ("is the same in several rows", f"SELECT 1 FROM {self._from} GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"),
        ):
            with self._said(sql) as result:
                if result.first():
                    raise self._bad_order(problem)

    def _bad_order(self, problem: str) -> InvalidFile:
        return InvalidFile(
            f"{self.name}: {', '.join(self._order)} {problem}, so it is no order.",
            hint="Order by what every row has and no two share, such as the primary key.",
        )

    def _values(self, seal: Seal, end: int | None = None) -> Iterator[dict[str, Any]]:
        """The cells by column, of all rows behind `at` or those up to `end`; `at` and the seal follow."""
        names = tuple(dict.fromkeys([*filter(None, self.wanted[:2]), *self.wanted.more, *self._order]))
        names = tuple(name for name in names if name in self.columns)
        keys = ", ".join(map(self._quoted, self._order))
        select = f"SELECT {', '.join(map(self._quoted, names))} FROM {self._from}"
        while end is None or self.at < end:
            page = _PAGE if end is None else min(end - self.at, _HASHED_PAGE)
            behind, last = "", self._last if self.at else []
            if last:
                behind = f" WHERE ({keys}) > ({', '.join(f':key{at}' for at in range(len(last)))})"
            begun = self.at
            for values in self._page(f"{select}{behind} ORDER BY {keys} LIMIT {page}", last):
                row = dict(zip(names, values, strict=True))
                key = [row[name] for name in self._order]
                if None in key or (self.at and key == self._last):
                    raise self._bad_order("is missing or the same in some rows")
                self._last = key
                seal.update(content(values))
                self.at += 1
                yield row
            if self.at == begun:
                return

    def _page(self, sql: str, key: Sequence[Any]) -> Generator[Sequence[Any]]:
        with self._errors(), self._said(sql, {f"key{at}": part for at, part in enumerate(key)}) as result:
            yield from result

    @contextmanager
    def _said(self, sql: str, parameters: dict[str, Any] | None = None) -> Iterator[sa.CursorResult[Any]]:
        """The result of a statement, streamed; behind it the transaction ends."""
        import sqlalchemy as sa

        assert self._connection is not None  # `_open` was called
        options = {"stream_results": True, "yield_per": _FETCHED}
        with self._connection.execute(sa.text(sql), parameters or {}, execution_options=options) as result:
            yield result
        self._connection.commit()  # as a rollback would take back the time zone, too

    def _count(self) -> int:
        with self._said(f"SELECT count(*) FROM {self._from}") as result:
            return int(result.scalar_one())

    @property
    def _from(self) -> str:
        # a colon would begin a parameter; a line of its own, because the query may end with a comment
        return f"({self._query}\n) AS guard_rows".replace(":", r"\:")

    def _quoted(self, name: str) -> str:
        return str(self._engine.dialect.identifier_preparer.quote_identifier(name)).replace(":", r"\:")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import sqlalchemy as sa

        try:
            yield
        except sa.exc.SQLAlchemyError as cause:
            lost = isinstance(cause, sa.exc.DBAPIError) and cause.connection_invalidated
            if lost or self.at:
                raise OSError(f"the database went away or failed ({type(cause).__name__})") from cause
            said = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
            if self._password:
                said = said.replace(str(self._password), "***")
            raise InvalidFile(f"{self.name}: the query failed: {said}.", hint="Check URL, query and order.") from cause
