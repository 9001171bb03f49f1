from __future__ import annotations

import json
import sqlite3
import sys
import tracemalloc
from datetime import UTC
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import InvalidFile
from guard.scan import database
from guard.scan.readers import open_input
from tests.scan import postgres

QUERY = "SELECT id, text FROM post"


@pytest.fixture(scope="session")
def socket():
    with postgres.server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", *(["postgresql"] if postgres.FOUND else [])])
def url(request, tmp_path):
    """An empty database."""
    if request.param == "sqlite":
        path = tmp_path / "forum.db"
        sqlite3.connect(path).close()
        return f"sqlite:///{path}"
    return emptied(request.getfixturevalue("socket"))


def emptied(socket):
    url = f"postgresql://guard:{quote(postgres.PASSWORD, safe='')}@/postgres?host={socket}"
    do(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return url


def engine(url):
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)


def do(url, *statements):
    with engine(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def fill(url, rows, create="CREATE TABLE post (id INTEGER, text TEXT)"):
    """Rows of (id, text), in the order that is given."""
    with engine(url).begin() as connection:
        connection.exec_driver_sql(create)
        for at in range(0, len(rows), 5000):
            values = [{"id": id_, "text": text} for id_, text in rows[at : at + 5000]]
            connection.execute(sa.text("INSERT INTO post (id, text) VALUES (:id, :text)"), values)


def opened(url, query=QUERY, order="id", more=(), id_="id"):
    return open_input([url], "text", id_, more, query=query, order=order)


def told(rows):
    return [(row.number, row.id, row.text, str(row.error)) for row in rows]


def test_rows_come_in_their_order(url, monkeypatch):
    monkeypatch.setattr(database, "_PAGE", 7)
    fill(url, [(id_, f"text {id_}") for id_ in (*range(50, 100), *range(50))])
    reader = opened(url)
    reader.check()
    assert reader.columns == ("id", "text")
    assert told(reader) == [(id_ + 1, str(id_), f"text {id_}", "None") for id_ in range(100)]
    assert reader.share == 1.0


@pytest.mark.parametrize("cut", [1, 7, 14, 30])
def test_going_on_anywhere_gives_the_rest_and_the_same_digest(url, monkeypatch, cut):
    monkeypatch.setattr(database, "_PAGE", 7)
    monkeypatch.setattr(database, "_HASHED_PAGE", 10)
    fill(url, [(id_, f"text {id_}") for id_ in range(30)])
    reader = opened(url)
    rows = reader.rows()
    for _ in range(cut):
        next(rows)
    mark = json.loads(json.dumps(reader.position)), reader.digest
    rest = told(rows)
    again = opened(url)
    assert told(again.rows(*mark)) == rest
    assert (again.position, again.digest) == (reader.position, reader.digest)
    do(url, "INSERT INTO post VALUES (30, 'new')")
    assert told(opened(url).rows(*mark)) == [*rest, (31, "30", "new", "None")]
    do(url, f"UPDATE post SET text = 'changed' WHERE id = {cut - 1}")
    with pytest.raises(InvalidFile, match=f"differs before row {cut + 1}"):
        list(opened(url).rows(*mark))


@pytest.mark.parametrize("change", ["DELETE FROM post WHERE id = 3", "INSERT INTO post VALUES (-1, 'x')"])
def test_rows_that_come_and_go_before_are_noticed(url, monkeypatch, change):
    monkeypatch.setattr(database, "_PAGE", 7)
    fill(url, [(id_, f"text {id_}") for id_ in range(30)])
    reader = opened(url)
    rows = reader.rows()
    for _ in range(14):
        next(rows)
    do(url, change)  # while it is read, between two pages
    with pytest.raises(InvalidFile, match="differs before row 3[01]"):
        list(rows)


def test_an_order_of_several_columns(url, monkeypatch):
    monkeypatch.setattr(database, "_PAGE", 3)
    do(url, 'CREATE TABLE "Po st" (a INTEGER, "B:b" TEXT, text TEXT)')
    for a in range(5):
        for b in "xyz":
            do(url, f"INSERT INTO \"Po st\" VALUES ({a}, '{b}', '{a}{b}')")
    rows = list(opened(url, 'SELECT * FROM "Po st"', "a, B:b", ("B:b",), None))
    assert [row.text for row in rows] == [f"{a}{b}" for a in range(5) for b in "xyz"]
    assert [row.more["B:b"] for row in rows] == [*"xyz"] * 5


def test_a_query_may_hold_whatever_sql_can_hold(url):
    fill(url, [(1, "12:30 :x 100%"), (2, "other")])
    query = "SELECT id, text FROM post WHERE text LIKE '12:30 :x 100%' AND 7 % 4 = 3 ORDER BY id; -- the end"
    query = query.replace(";", "")
    assert [row.text for row in opened(url, query)] == ["12:30 :x 100%"]
    assert [row.text for row in opened(url, f"WITH found AS ({QUERY}) SELECT * FROM found;\n")] == [
        "12:30 :x 100%", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([(1, "a"), (None, "b")], "is missing in some row"), ([(1, "a"), (2, "b"), (1, "c")], "is the same in several")],
)
def test_an_order_that_does_not_tell_the_rows_apart_is_refused_at_once(url, rows, problem):
    fill(url, rows)
    with pytest.raises(InvalidFile, match=f"id {problem}"):
        opened(url).check()
    with pytest.raises(InvalidFile, match=f"id {problem}"):
        next(opened(url).rows())


def test_texts_that_are_none_are_errors_at_their_place(url):
    fill(url, [(1, "a"), (2, None), (3, "b")])
    rows = list(opened(url))
    assert [row.text for row in rows] == ["a", "", "b"]
    assert rows[1].error.message == "Row 2 cannot be judged: 'text' is null."
    rows = list(opened(url, "SELECT id, id AS text FROM post"))
    assert rows[0].error.message == "Row 1 cannot be judged: 'text' is of type int, not text."


@pytest.mark.parametrize(
    ("query", "order", "problem"),
    [
        ("SELECT id FROM post", "id", "there is no column 'text'"),
        (QUERY, "nr", "there is no column 'nr'"),
        ("SELECT id, text FROM nowhere", "id", "the query failed: .*nowhere"),
        ("DELETE FROM post", "id", "the query failed"),
        (None, "id", "a database needs a query"),
        (" ", "id", "a database needs a query"),
        (QUERY, None, "a database needs an order"),
        (QUERY, " ,", "a database needs an order"),
    ],
)
def test_what_cannot_be_asked_is_refused(url, query, order, problem):
    fill(url, [(1, "a")])
    with pytest.raises(InvalidFile, match=problem) as caught:
        opened(url, query, order).check()
    assert "secret" not in str(caught.value)


def test_nothing_can_be_written(url):
    fill(url, [(1, "a")])
    if url.startswith("sqlite"):
        reader = opened(url)
        rows = reader.rows()
        next(rows)
        (source,) = reader._sources
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            source._connection.exec_driver_sql("DELETE FROM post")
        rows.close()
    else:
        do(url, "CREATE FUNCTION gone() RETURNS TEXT LANGUAGE sql AS 'DELETE FROM post RETURNING text'")
        with pytest.raises(InvalidFile, match="read-only transaction"):
            list(opened(url, "SELECT id, gone() AS text FROM post"))
    assert [row.text for row in opened(url)] == ["a"]


def test_memory_does_not_grow_with_the_table(url):
    fill(
        url,
        [(id_, "some text " * 10) for id_ in range(6_000)],
        "CREATE TABLE post (id INTEGER PRIMARY KEY, text TEXT)",
    )

    def peak(rows):
        reader = opened(url, f"{QUERY} WHERE id < {rows}")
        tracemalloc.start()
        try:
            assert sum(1 for _ in reader) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(600)
    assert peak(6000) < 1.2 * peak(600) + 100_000


keys = {
    "TEXT": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "DOUBLE PRECISION": st.floats(allow_nan=False),
    "TIMESTAMP": st.datetimes(),
    "TIMESTAMPTZ": st.datetimes(timezones=st.just(UTC)),
    "NUMERIC": st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9),
    "UUID": st.uuids(),
    "BYTEA": st.binary(max_size=4),
}


@pytest.mark.parametrize("kind", [*keys] if postgres.FOUND else [])
@settings(max_examples=4)
@given(data=st.data())
def test_keys_of_every_type_lead_from_page_to_page(socket, kind, data):
    found = data.draw(st.lists(keys[kind], max_size=12, unique=True))
    url = emptied(socket)
    fill(url, [(key, "text") for key in found], f"CREATE TABLE post (id {kind}, text TEXT)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_PAGE", 2)
        assert len(list(opened(url))) == len(found)


@pytest.mark.skipif(not postgres.FOUND, reason="no server on this machine; said at the end of the run")
class TestServer:
    @pytest.fixture
    def url(self, socket):
        return emptied(socket)

    def test_a_database_that_goes_away_stops_the_scan_which_can_go_on(self, url):
        fill(url, [(id_, "some text " * 10) for id_ in range(2500)])
        reader = opened(url)
        rows = reader.rows()
        seen = [next(rows) for _ in range(1500)]
        mark = reader.position, reader.digest
        do(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'postgres' AND pid <> pg_backend_pid()",
        )
        with pytest.raises(
            InvalidFile, match=r"postgresql:///postgres: cannot be read after row \d+: the database"
        ) as e:
            seen += rows
        assert "secret" not in str(e.value)
        assert told(opened(url).rows(*mark)) == told(opened(url))[1500:]

    def test_a_page_ends_its_transaction(self, url):
        fill(url, [(id_, "text") for id_ in range(2 * database._PAGE)])
        rows = opened(url).rows()
        begun = []
        for at in range(2 * database._PAGE):
            next(rows)
            if at % database._PAGE == 500:
                found = "SELECT max(xact_start) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                with engine(url).connect() as connection:
                    begun += connection.exec_driver_sql(found).scalars()
        rows.close()
        assert begun[0] < begun[1]

    def test_a_wrong_password_is_not_repeated(self, url):
        wrong = url.replace("secret", "wr0ng")
        with pytest.raises(InvalidFile, match="the query failed.*password authentication failed") as caught:
            opened(wrong).check()
        assert "wr0ng" not in str(caught.value)

    def test_no_server_is_a_clear_error(self):
        with pytest.raises(InvalidFile, match="postgresql://127.0.0.1:1/forum: the query failed"):
            opened("postgresql://guard:secret@127.0.0.1:1/forum").check()


def test_files_that_are_no_database_are_refused(tmp_path):
    with pytest.raises(InvalidFile, match="no such file"):
        opened(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("no database" * 1000)
    with pytest.raises(InvalidFile, match="not a database"):
        opened(f"sqlite:///{tmp_path}/text.db").check()


def test_a_query_without_a_database_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("text\n")
    with pytest.raises(InvalidFile, match="A query is for a database"):
        open_input([str(tmp_path / "in.csv")], "text", query=QUERY)


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(InvalidFile, match=r"sqlite:///forum.db: a package for databases is missing.*\[sql\]"):
        opened("sqlite:///forum.db")
