from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidItem, InvalidSettings
from guard.scan.columns import Columns, Comment, utc
from guard.scan.markup import Markup
from guard.scan.row import Row


def loaded(tmp_path, text, **said):
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    return Columns.load(path, **said)


# ---- which columns


def test_flags_stand_above_the_file_and_the_file_above_the_format(tmp_path):
    file = "text: message\nboard: forum\nparent_id: null\n"
    columns = loaded(tmp_path, file, format="reddit", id="name")
    assert (columns.text, columns.id, columns.board, columns.time) == ("message", "name", "forum", "created_utc")
    assert (columns.parent_id, columns.markup) == (None, Markup.MARKDOWN)
    assert columns.more == ("title", "author", "forum", "created_utc")


def test_without_anything_said_the_text_is_in_text_and_nothing_else_is_read():
    assert Columns.load() == Columns.load(format="csv") == Columns()
    assert (Columns().text, Columns().more) == ("text", ())


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("text: a\nauthr: b\n", 2, "authr: unknown key"),
        ("text: a\ntext: b\n", 2, "text: the key stands twice"),
        ("text: null\n", 1, "text: Input should be a valid string"),
        ("text: ''\n", 1, "text: String should have at least 1 character"),
        ("id: 7\n", 1, "id: Input should be a valid string"),
        ("markup: wiki\n", 1, "markup: Input should be 'none', 'markdown', 'bbcode' or 'html'"),
        ("- text\n", 1, "a mapping of keys is expected"),
        ("text: [\n", 2, "not valid YAML"),
    ],
)
def test_a_file_that_does_not_hold_is_refused_with_its_line_and_the_known_keys(tmp_path, text, line, problem):
    with pytest.raises(InvalidSettings) as caught:
        loaded(tmp_path, text)
    assert f"columns.yaml:{line}: {problem}" in caught.value.message
    if "YAML" not in problem and "twice" not in problem:
        assert caught.value.hint == "The keys are: text, id, parent, parent_id, title, author, board, time, markup."


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidSettings, match="cannot be read"):
        Columns.load(tmp_path / "none.yaml")


# ---- comments


def comment(columns, text, **more):
    return columns.comment(Row(1, "x", text, more=more))


def test_a_row_becomes_a_comment():
    columns = Columns(parent="p", parent_id="pi", title="t", author="a", board="b", time="when")
    found = comment(columns, "Text > x", p="Parent", pi=17, t="Title", a=b"Bob", b=["x"], when=1700000000)
    assert found == Comment(
        1, "x", "Text > x", None, "Parent", "17", "Title", "Bob", '["x"]', "2023-11-14T22:13:20Z", "Text > x"
    )


def test_what_a_row_has_not_or_has_empty_is_none():
    columns = Columns(parent="p", title="t", author="a", time="when")
    assert comment(columns, "Text", t="", a=None) == Comment(1, "x", "Text", raw="Text")


def test_a_row_with_an_error_keeps_it():
    error = InvalidItem("Row 1 cannot be judged.")
    row = Row(1, "x", '{"text"', error)
    assert Columns(markup=Markup.MARKDOWN).comment(row) == Comment(1, "x", '{"text"', error, raw='{"text"')


def test_quotes_become_the_parent_unless_the_input_has_one():
    columns = Columns(parent="p", markup=Markup.MARKDOWN)
    text = "> you fool\n\nNo insults, please."
    assert comment(columns, text)[2:5] == ("No insults, please.", None, "you fool")
    assert comment(columns, text, p="the **whole** parent")[4] == "the whole parent"
    assert comment(columns, text).raw == text


def test_a_comment_that_only_quotes_is_judged_by_the_quote():
    assert comment(Columns(markup=Markup.MARKDOWN), "> you fool")[2:5] == ("you fool", None, None)
    assert comment(Columns(markup=Markup.BBCODE), "[quote]a[/quote]\n[quote]b[/quote]")[2:5] == ("a\n\nb", None, None)


@given(st.text(), st.sampled_from(Markup))
def test_no_text_becomes_an_empty_one(text, markup):
    found = comment(Columns(markup=markup), text)
    assert bool(found.text.strip()) >= bool(text.strip())
    assert found.raw == text


# ---- times


@given(st.integers(10**8, 10**11 - 1), st.integers(-14 * 60, 14 * 60))
def test_times_in_every_form_are_the_same_time(seconds, minutes):
    time = datetime.fromtimestamp(seconds, UTC)
    expected = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    there = (time + timedelta(minutes=minutes)).replace(tzinfo=None)
    sign, (hours, rest) = "+-"[minutes < 0], divmod(abs(minutes), 60)
    for form in (
        str(seconds), f" {seconds}.0", str(seconds * 1000), expected, expected.removesuffix("Z").replace("T", " "),
        f"{there.isoformat()}{sign}{hours:02}:{rest:02}",
    ):  # fmt: skip
        assert utc(form) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "12", "2023", "9" * 400, "31.12.2023", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_nobody_understands_stays_as_it_stands(text):
    assert utc(text) == text


@given(st.text())
def test_no_text_breaks_the_reading_of_times(text):
    assert isinstance(utc(text), str)
