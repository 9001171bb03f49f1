import csv
import io
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import guard
from guard import cli
from guard.engine.fake import FakeEngine
from guard.errors import STATUS, EngineError, GuardError, InvalidFile, ModelUnavailable
from guard.item import Kind
from guard.keys import Key, KeyBook
from guard.moderator import Moderator
from guard.policy import load_policy
from guard.resources import shipped
from guard.tokenizer import load_tokenizer
from tests.families import saved

ESCAPE = "\x1b[31mred\x1b[0m\x07 [bold red]markup[/] \u202eback\x9b2J"
FILE = """\
id: own
version: 2
description: A policy of one file.
categories:
  - id: odd
    description: says something odd indeed
tests:
  - text: fine
    expect: accepted
  - text: strange
    expect: flag
    category: odd
"""


tokenizer = cache(load_tokenizer)


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """Every command runs on the fake engine, in a folder of its own."""
    for name in list(os.environ):
        if name.startswith("GUARD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GUARD_MODEL", "fake")
    monkeypatch.setattr("guard.loading.load_tokenizer", tokenizer)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def script(monkeypatch):
    """Let the fake engine answer from a script of acceptable probabilities (of two labels) or errors."""

    def use(*entries):
        engine = FakeEngine([e if isinstance(e, Exception) else [e, 1 - e] for e in entries])
        moderator = Moderator(engine, tokenizer(shipped("models") / "embedded"))
        monkeypatch.setattr(Moderator, "load", lambda _settings: moderator)
        return engine

    return use


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(FILE)
    return str(path)


def call(*arguments, stdin=None):
    return CliRunner().invoke(cli.app, list(arguments), input=stdin, prog_name="guard")


def run(capsys, *arguments):
    """Exit status, standard output and standard error, all errors handled as `main` does."""
    status = cli.run(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def process(*arguments, stdin=b"", code="from guard.cli import main; main()", **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(guard.__file__)), **environment},
    )


def table(text, path="in.csv"):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *((f"id-{i}", words) for i, words in enumerate(text))])
    return path


# ---- exit statuses, from outside


@pytest.mark.parametrize(
    ("arguments", "stdin", "status"),
    [
        (["check", "good text"], b"", 0),
        (["check", "you old fool"], b"", 1),
        (["check", "-"], b"you old fool\n", 1),
        (["check"], b"a\xffgood text", 1),
        (["check"], b"", 2),
        (["check", "x", "--policy", "nope"], b"", 2),
        (["check", "x", "--nope"], b"", 2),
        (["nope"], b"", 2),
        ([], b"", 2),
        (["--version"], b"", 0),
    ],
)
def test_exit_status(arguments, stdin, status):
    done = process(*arguments, stdin=stdin)
    assert done.returncode == status, done
    assert b"Traceback" not in done.stderr
    if status == 2 and arguments:
        assert done.stderr.startswith(b"guard: error: ")
        assert done.stderr.count(b"\n") == 1
        assert done.stdout == b""
    else:
        assert done.stderr == b""


CRASH = """
import sys, guard.moderator
def load(settings): raise {error}
guard.moderator.Moderator.load = load
from guard.cli import main
main()
"""


def test_an_error_that_nobody_foresaw_is_one_line_and_status_2():
    code = CRASH.format(error=r"ZeroDivisionError('one\ntwo\x1b[2J')")
    done = process("check", "x", code=code)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"guard: error: ZeroDivisionError: one\\ntwo\\x1b[2J\n"
    done = process("check", "x", code=code, GUARD_DEBUG="1")
    assert done.returncode == 2
    assert done.stderr.startswith(b"Traceback (most recent call last):\n")
    assert done.stderr.endswith(b"guard: error: ZeroDivisionError: one\\ntwo\\x1b[2J\n")
    assert b"\x1b" not in done.stderr


def test_an_interrupt_is_130_and_other_exits_are_2():
    assert process("check", "x", code=CRASH.format(error="KeyboardInterrupt")).returncode == 130
    assert process("check", "x", code=CRASH.format(error="SystemExit(1)")).returncode == 2
    assert process("check", "x", code=CRASH.format(error="BaseException('panic')")).returncode == 2


LEFT = """
import os
reading, writing = os.pipe()
os.dup2(writing, {number})
os.close(reading)
os.close(writing)
from guard.cli import main
main()
"""


@pytest.mark.parametrize("arguments", ["policy show moderation-13", "check text", "check text --json"])
def test_a_reader_that_left_is_no_verdict(arguments):
    """A closed pipe ended in status 1, which says "flagged"."""
    done = process(*arguments.split(), code=LEFT.format(number=1))
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_an_error_that_nobody_reads_keeps_its_status():
    assert process("check", "x", "--policy", "nope", code=LEFT.format(number=2)).returncode == 2


def test_without_standard_input_there_is_no_text():
    code = "import sys; sys.stdin = None; from guard.cli import main; main()"
    for arguments in (["check"], ["check", "-"]):
        done = process(*arguments, code=code)
        assert (done.returncode, b"There is no text." in done.stderr) == (2, True)


def test_help_loads_nothing_heavy():
    code = """
import sys
for name in ("torch", "transformers", "fastapi", "uvicorn", "polars", "py3langid"): sys.modules[name] = None
from guard.cli import main
main()
"""
    for arguments in (["--help"], ["check", "good text"], ["scan", "--help"], ["policy", "list"]):
        done = process(*arguments, code=code)
        assert (done.returncode, done.stderr) == (0, b""), done


def test_output_survives_a_locale_without_unicode():
    done = process("policy", "show", "self-reflection", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_error_has_its_exit_status():
    for error, (_, status) in STATUS.items():
        assert cli.exit_status(error("x")) == status
    assert cli.exit_status(GuardError("x")) == 2


# ---- help


@pytest.mark.parametrize("command", ["", "check", "scan", "serve", "policy", "policy list", "policy show"])
def test_every_command_has_help(command):
    for flag in ("--help", "-h"):
        done = call(*command.split(), flag)
        assert done.exit_code == 0
        assert f"Usage: guard {command}".strip() in done.stdout


@pytest.mark.parametrize("command", [[], ["policy"]])
def test_without_a_command_help_is_shown(command):
    done = call(*command)
    assert done.exit_code == 2
    assert "Commands" in done.stdout


def test_version():
    assert call("--version").stdout == f"guard {guard.__version__}\n"


# ---- check


def test_the_verdict_of_a_text(script, own):
    script(0.1)
    done = call("check", "some text", "--policy", own)
    assert done.exit_code == 1
    assert done.stdout == (
        "flag  score 0.900\ncategories: odd 0.900\nreason: the model fake read it under own version 2\n"
    )
    script(0.9)
    assert call("check", "some text", "--policy", own).stdout.startswith("allow  score 0.100\ncategories: none\n")


def test_json_is_one_line_and_the_whole_verdict(script, own):
    script(0.1, 0.1)
    done = call("check", ESCAPE + "é", "--policy", own, "--json")
    assert done.exit_code == 1
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert done.stdout.count("\n") == 1
    verdict = Moderator.load(None).judge(ESCAPE + "é", policy=load_policy(cli.Path(own)))
    assert json.loads(done.stdout) == verdict.model_dump(mode="json")


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (b"a text", "a text"),
        (b"a text\n", "a text"),
        (b"a text\r\n", "a text"),
        (b"two\nlines\n\n", "two\nlines\n"),
        (b"\xef\xbb\xbfa\xfftext", "a\ufffdtext"),
        ("häßlich 🙂".encode(), "häßlich 🙂"),
    ],
)
@pytest.mark.parametrize("arguments", [["check"], ["check", "-"]])
def test_standard_input_is_the_text(stdin, text, arguments):
    piped, given = call(*arguments, "--json", stdin=stdin), call("check", text, "--json")
    assert json.loads(piped.stdout) == json.loads(given.stdout)
    assert json.loads(given.stdout)["passage"]["excerpt"] == text


def test_a_terminal_is_not_waited_for(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.BytesIO,), {"isatty": lambda self: True})())
    status, _, error = run(capsys, "check")
    assert (status, error) == (2, "guard: error: There is no text. Give it as an argument, or pipe it in.\n")


def test_an_answer_is_judged_with_its_prompt():
    expected = Moderator.load(cli.load_settings()).judge(
        guard.Item(text="the answer", kind=Kind.ANSWER, prompt="the prompt")
    )
    for arguments in (["the prompt"], ["the prompt", "--kind", "answer"], ["-"]):
        done = call("check", *arguments, "--answer", "the answer", "--json", stdin="the prompt\n")
        assert json.loads(done.stdout) == expected.model_dump(mode="json")


def test_a_comment_is_judged_in_its_thread():
    expected = Moderator.load(cli.load_settings()).judge(
        guard.Item(text="text", kind=Kind.COMMENT, parent="said before", title="about"), policy="forum-comments"
    )
    done = call("check", "text", "--parent=said before", "--title=about", "--policy=forum-comments", "--json")
    assert json.loads(done.stdout) == expected.model_dump(mode="json")


def test_the_policy_says_what_a_text_is_when_nobody_else_does():
    by_default = call("check", "text", "--policy", "forum-comments", "--json")
    said = call("check", "text", "--policy", "forum-comments", "--kind", "comment", "--json")
    assert json.loads(by_default.stdout) == json.loads(said.stdout)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x", "--answer", "y", "--kind", "prompt"], "An answer has neither"),
        (["x", "--answer", "y", "--parent", "z"], "An answer has neither"),
        (["x", "--title", "z", "--kind", "prompt"], "Only a comment has --parent and --title."),
        (["x", "--kind", "poem"], "'poem' is not one of"),
        (["x", "--categories", "illegal,nope"], "no category 'nope'"),
        (["x", "--categories", ""], "no category left"),
        (["x", "--policy", "nope.yaml"], "No policy is called 'nope.yaml'."),
        (["x", "--policy", "forum-comments", "--kind", "prompt"], "no category left"),
        (["x", "--policies", "nowhere"], "nowhere: no such folder."),
        ([" \n"], "The text is empty."),
        (["x", "--answer", " "], "The text is empty."),
        (["x", "y"], "unexpected extra argument"),
    ],
)
def test_what_cannot_be_asked(capsys, arguments, problem):
    status, out, error = run(capsys, "check", *arguments)
    assert (status, out) == (2, "")
    assert problem in error
    assert error.count("\n") == 1


def test_categories_narrow_the_policy():
    done = call("check", "text", "--policy", "moderation-13", "--categories", "hate, violence", "--json")
    assert set(json.loads(done.stdout)["category_scores"]) == {"hate", "violence"}


def test_a_failure_of_the_engine_is_an_error(script, own):
    script(EngineError("no luck", hint="Try again."), EngineError("no luck"))
    done = call("check", "text", "--policy", own)
    assert (done.exit_code, done.stdout) == (2, "error  engine_error: no luck Try again.\n")
    done = call("check", "text", "--policy", own, "--json")
    assert (done.exit_code, json.loads(done.stdout)["decision"]) == (2, "error")


def test_a_long_text_names_its_passage_and_what_was_not_read(monkeypatch):
    monkeypatch.setenv("GUARD_MAX_PASSAGES", "2")
    done = call("check", (ESCAPE + " word ") * 300)
    assert re.search(r"passage [12] of 2 decided: \\x1b\[31mred\\x1b\[0m|passage [12] of 2 decided: ", done.stdout)
    assert "not all of the text" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_rule_is_the_reason(own):
    with open(own, "a") as file:
        file.write("deny:\n  - {term: strange, reason: known advertisement, category: odd}\n")
    done = call("check", "how strange!", "--policy", own)
    assert done.stdout == "block  score 1.000\ncategories: odd 1.000\nreason: rule: known advertisement\n"


# ---- settings


def test_a_flag_goes_before_a_variable_and_that_before_the_file(tmp_path, monkeypatch, own):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own.yaml").write_text(FILE)
    (tmp_path / "guard.yaml").write_text("policy: mistral-9\nmodel: /from/file\n")
    assert json.loads(call("check", "x", "--json").stdout)["policy"] == "mistral-9"
    monkeypatch.setenv("GUARD_POLICY", "own")
    monkeypatch.setenv("GUARD_POLICIES", json.dumps([str(tmp_path / "more")]))
    assert json.loads(call("check", "x", "--json").stdout)["policy"] == "own"
    assert json.loads(call("check", "x", "--json", "--policy", "mistral-11").stdout)["policy"] == "mistral-11"
    monkeypatch.setenv("GUARD_MODEL", "/from/variable")
    assert json.loads(call("check", "x", "--json", "--model", "fake").stdout)["model"] == "fake"
    monkeypatch.delenv("GUARD_POLICIES")
    assert json.loads(call("check", "x", "--json", "--model", "fake", "--policies", "more").stdout)["policy"] == "own"


def test_a_setting_that_does_not_hold(capsys, monkeypatch):
    monkeypatch.setenv("GUARD_THREADS", "-1")
    status, _, error = run(capsys, "check", "x")
    assert (status, "GUARD_THREADS" in error) == (2, True)


def test_serve_gets_the_settings(monkeypatch, tmp_path):
    import guard.service.server as server

    served = []
    monkeypatch.setattr(server, "serve", served.append)
    done = call("serve", "--host", "0.0.0.0", "--port", "0", "--policy", "mistral-9", "--policies", str(tmp_path))
    assert done.exit_code == 0
    (settings,) = served
    assert (settings.host, settings.port, settings.service_policy, settings.model) == (
        "0.0.0.0",
        0,
        "mistral-9",
        "fake",
    )
    assert settings.policies == (tmp_path,)


def test_serve_refuses_a_port_that_is_none(capsys):
    status, _, error = run(capsys, "serve", "--port", "70000")
    assert (status, "'port'" in error) == (2, True)


# ---- scan


def test_a_scan_writes_the_verdicts_and_says_what_it_found():
    source = table(["one", "two", "three", "two"])
    done = call("scan", source, "--out", "out.jsonl", "--id-column", "id")
    assert done.exit_code == 0
    assert done.stderr == ""  # too quick for a line of progress
    with open("out.jsonl") as file:
        rows = [json.loads(line) for line in file]
    assert [row["id"] for row in rows] == ["id-0", "id-1", "id-2", "id-3"]
    assert re.fullmatch(
        r"4 rows in \d+\.\d s \([\d,.]+ rows/s\)\ndecisions: .*\ncategories: .*\nwritten: out.jsonl\n", done.stdout
    )
    assert sum(int(n) for n in re.findall(r" (\d+)", done.stdout.splitlines()[1])) == 4


def test_a_quiet_scan_says_nothing():
    assert call("scan", table(["a"]), "--out", "out.csv", "--quiet").output == ""


def test_every_option_reaches_the_scan(own):
    table(["one"])
    done = call("scan", "in.csv", "--text-column", "id", "--out", "out.jsonl", "--policy", own, "--kind", "answer")
    assert done.exit_code == 0
    with open("out.jsonl") as file:
        row = json.load(file)
    expected = Moderator.load(cli.load_settings()).judge("id-0", policy=load_policy(cli.Path(own)), kind="answer")
    assert (row["id"], row["policy"], row["score"]) == ("1", "own", expected.score)
    call("scan", "in.csv", "--out", "few.jsonl", "--policy", "mistral-9", "--categories", "law,pii", "--no-text")
    with open("few.jsonl") as file:
        row = json.load(file)
    assert set(row["category_scores"]) == {"law", "pii"}
    assert "text" not in row


def test_a_scan_goes_on_where_it_was_and_refuses_other_settings(capsys):
    source = table(["one", "two"])
    call("scan", source, "--out", "out.csv")
    again = call("scan", source, "--out", "out.csv")
    assert again.stdout.startswith("0 rows in ")
    assert "2 judged before" in again.stdout.splitlines()[0]
    status, _, error = run(capsys, "scan", source, "--out", "out.csv", "--policy", "forum-comments")
    assert (status, "policy (was " in error, "--restart" in error) == (2, True, True)
    assert call("scan", source, "--out", "out.csv", "--policy", "forum-comments", "--restart").exit_code == 0


def test_a_scan_says_which_column_is_what_in_a_file_of_its_own():
    with open("columns.yaml", "w") as file:
        file.write("text: body\nid: key\nauthor: who\nmarkup: bbcode\n")
    with open("in.csv", "w") as file:
        file.write("key,who,body\n7,ann,[quote]bad[/quote] [b]good[/b]\n")
    assert call("scan", "in.csv", "--out", "out.jsonl", "--columns", "columns.yaml").exit_code == 0
    with open("out.jsonl") as file:
        row = json.load(file)
    assert (row["id"], row["author"], row["text"]) == ("7", "ann", "good")


def test_a_scan_reads_and_writes_pipes():
    done = process("scan", "-", "--out", "-", stdin=b'{"text": "one"}\n{"text": "two"}\n')
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["one", "two"]


def test_progress_for_programs_is_json():
    done = call("scan", table(["one", "", "three"]), "--out", "out.csv", "--progress", "json")
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert (told[-1]["rows"], told[-1]["share"], told[-1]["errors"]) == (3, 1.0, 1)
    assert call("scan", "in.csv", "--out", "two.csv", "--progress", "none").stderr == ""


def test_a_dry_run_says_what_a_scan_would_take_and_writes_nothing():
    done = call("scan", table([f"text {i % 30}" for i in range(50)]), "--dry-run")
    assert done.exit_code == 0
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["rows", "50", "counted"] in words
    assert ["texts", "to", "judge,", "equal", "ones", "once", "30", "counted"] in words
    assert sorted(os.listdir()) == ["in.csv"]


def test_rows_without_a_verdict_are_status_3():
    source = table(["fine", "", "also fine"])
    done = call("scan", source, "--out", "out.csv")
    assert done.exit_code == 3
    assert "without a verdict: 1 rows, see out.csv.errors.jsonl\n" in done.stdout
    with open("out.csv.errors.jsonl") as file:
        assert json.load(file)["row"] == 2
    assert process("scan", source, "--out", "out.csv", "--quiet").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["in.csv"], "No output is named."),
        (["--out", "out.csv"], "Missing argument"),
        (["in.csv", "--out", "in.csv"], "overwrite its own input"),
        (["in.csv", "--out", "./in.csv"], "overwrite its own input"),
        (["in.csv", "--out", "out.txt"], "not a known kind of output"),
        (["in.csv", "--out", "no/out.csv"], "cannot be written"),
        (["no.csv", "--out", "out.csv"], "no such file"),
        (["in.csv", "--out", "out.csv", "--text-column", "body"], "The columns are: 'id', 'text'."),
        (["in.csv", "--out", "out.csv", "--id-column", "key"], "The columns are: 'id', 'text'."),
        (["in.csv", "--out", "out.csv", "--policy", "nope"], "No policy is called 'nope'."),
        (["in.csv", "--out", "out.csv", "--categories", "nope"], "no category 'nope'"),
    ],
)
def test_a_scan_that_cannot_begin(capsys, arguments, problem):
    table(["text"])
    status, out, error = run(capsys, "scan", *arguments)
    assert (status, out) == (2, "")
    assert problem in error
    assert error.startswith("guard: error: ")
    assert error.count("\n") == 1
    assert not os.path.exists("out.csv")


def test_files_are_looked_at_before_a_model_is_loaded(capsys, monkeypatch):
    def load(_settings):
        raise ModelUnavailable("too early")

    monkeypatch.setattr(Moderator, "load", load)
    assert "no such file" in run(capsys, "scan", "no.csv", "--out", "out.csv")[2]


def test_show_prints_what_was_flagged_with_the_highest_scores_first(script, own):
    script(0.9, EngineError("broken"), 0.4, 0.1)  # shorter texts are asked about first
    source = table(["first   words\nand more", "fine", "x" * 500, "broken"])
    done = call("scan", source, "--out", "out.csv", "--id-column", "id", "--policy", own, "--show", "--quiet")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert [line.split() for line in lines] == [
        ["id", "decision", "categories", "score", "text"],
        ["id-2", "flag", "odd", "0.900", "x" * 59 + "…"],
        ["id-0", "flag", "odd", "0.600", "first", "words", "and", "more"],
    ]


def test_show_is_escaped(script, own):
    script(0.1)
    with open("in.jsonl", "w") as file:
        json.dump({"id": "\x1b]0;title\x07[bold]", "text": ESCAPE}, file)
    done = call("scan", "in.jsonl", "--out", "out.csv", "--id-column", "id", "--policy", own, "--show")
    assert r"\x1b[31mred\x1b[0m\x07 [bold red]markup[/] \u202eback\x9b2J"[:59] in done.stdout
    assert r"\x1b]0;title\x07[bold]" in done.stdout
    assert all(character.isprintable() or character == "\n" for character in done.output)
    with open("out.csv", newline="") as file:
        assert next(csv.DictReader(file))["id"] == "\x1b]0;title\x07[bold]"


def test_names_of_columns_and_files_are_escaped(capsys):
    with open("in.csv", "w") as file:
        file.write("\x1b[2Jid,b\n1,2\n")
    error = run(capsys, "scan", "in.csv", "--out", "out.csv")[2]
    assert r"\x1b[2Jid" in error
    assert "\x1b" not in error
    assert "\x1b" not in run(capsys, "scan", "\x1b[2J.csv", "--out", "out.csv")[2]


def test_show_leaves_out_all_but_a_hundred(script, own):
    script(*[0.3 - i / 1000 for i in range(130)], 0.9)
    done = call("scan", table(list(map(str, range(131)))), "--out", "out.csv", "--policy", own, "--show", "--quiet")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 100 + 1
    assert lines[1].split()[0] == "130"
    assert lines[-1] == "and 30 more with lower scores"


# ---- policy


def test_the_list_of_policies(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own.yaml").write_text(FILE)
    done = call("policy", "list", "--policies", "more")
    assert done.exit_code == 0
    for name in ("self-reflection", "moderation-13", "forum-comments", "own"):
        assert re.search(rf"^{name} +\d+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^own +2 +odd +A policy of one file\.", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["moderation-13", "own.yaml"])
def test_a_policy_is_shown_as_the_yaml_that_it_is(own, tmp_path, name):
    done = call("policy", "show", name)
    assert done.exit_code == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(done.stdout)
    policy = load_policy(copy)
    assert done.stdout.splitlines()[0] == f"# hash: {policy.hash}"
    assert policy == cli.find_policy(cli.load_settings(), name)


def test_the_words_that_the_model_reads():
    done = call("policy", "show", "forum-comments", "--prompt")
    assert "insult: attacks, mocks, harasses or bullies a person" in done.stdout
    assert "{" not in done.stdout
    other = call("policy", "show", "mistral-9", "--prompt", "--kind", "answer")
    assert "what an assistant answered" in other.stdout


def test_shipped_policies_hold():
    done = call("policy", "lint")
    assert done.exit_code == 0
    assert len(re.findall(r": ok$", done.stdout, re.MULTILINE)) >= 6
    marked = [line for line in done.stdout.splitlines() if "uncalibrated" in line]
    assert len(marked) == 1 and "injection.yaml" in marked[0], "the model was trained for all but documents"


def test_lint_names_file_and_line(own, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(FILE.replace("description: says something odd indeed", "description: odd\n    colour: red"))
    done = call("policy", "lint", own, str(broken), "missing.yaml")
    assert done.exit_code == 2
    first, second, third = (line for line in done.stdout.splitlines() if "uncalibrated" not in line)
    assert first == f"{own}: ok"
    assert second.startswith(f"{broken}:7: categories.0.colour: unknown key.")
    assert third.startswith("missing.yaml: cannot be read")


def test_lint_warns_of_what_is_odd(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("""\
id: odd
version: 1
threshold: 0.5
categories:
  - {id: a, description: two words}
  - {id: b, description: three good words, threshold: 0.8}
  - {id: c, description: three good words, threshold: 0.99}
  - {id: d, description: three good words, threshold: 0.9, action: allow}
  - {id: e, description: three good words}
""")
    done = call("policy", "lint", "odd.yaml")
    assert done.exit_code == 0
    assert [line.removeprefix("odd.yaml: ") for line in done.stdout.splitlines()] == [
        "ok",
        "warning: no tests",
        "warning: category a: a description of fewer than 3 words tells the model little",
        "warning: category b: its threshold 0.8 is above the policy's 0.5, which stops an item before",
        "warning: category c: nearly everything or nearly nothing will reach 0.99",
        *(
            f"warning: category {id_}: uncalibrated, the model fake was not trained for it "
            "(its scores are a guess; `guard calibrate` on labelled items can measure it)"
            for id_ in "abcde"
        ),
    ]
    path.write_text("id: odd\nversion: 1\nthreshold: 0.99\ncategories: [{id: a, description: b c d, action: allow}]\n")
    assert "threshold 0.99: nearly" in call("policy", "lint", "odd.yaml").stdout
    assert "the model stops nothing" in call("policy", "lint", "odd.yaml").stdout


def test_tests_of_a_policy(script, own):
    engine = script(0.9, 0.2)
    done = call("policy", "test", own)
    assert done.exit_code == 0
    assert done.stdout == (
        "pass  own: expected accepted, got allow 0.100: fine\n"
        "pass  own: expected flag (odd), got flag (odd) 0.800: strange\n"
        "own: 2 of 2 passed\n"
    )
    assert len(engine.seen) == 2


def test_a_test_that_fails_is_status_1_and_one_that_cannot_run_2(script, own):
    script(0.2, 0.2)
    done = call("policy", "test", own)
    assert done.exit_code == 1
    assert "FAIL  own: expected accepted, got flag (odd) 0.800: fine\n" in done.stdout
    assert done.stdout.endswith("own: 1 of 2 passed\n")
    script(EngineError("no luck"), 0.9)
    done = call("policy", "test", own)
    assert done.exit_code == 2
    assert "got error (engine_error: no luck): fine\n" in done.stdout
    assert done.stdout.endswith("own: 0 of 2 passed\n")


def test_a_category_that_is_expected_must_be_named(script, tmp_path):
    policy = yaml.safe_load(FILE)
    policy["categories"] = [
        {"id": "odd", "description": "x y z"},
        {"id": "mild", "description": "x y z", "action": "allow"},
    ]
    policy["tests"] = [
        {"text": "a", "expect": "accepted", "category": "mild"},
        {"text": "b", "expect": "accepted", "category": "odd"},
        {"text": "c", "expect": "allow"},
        {"text": "", "expect": "allow"},
    ]
    (tmp_path / "own.yml").write_text(yaml.safe_dump(policy))
    moderator_script = script()
    moderator_script._script = [[0.1, 0.0, 0.9], [0.1, 0.0, 0.9], [0.9, 0.1, 0.0]]
    done = call("policy", "test", "own.yml")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["pass", "FAIL", "pass", "error", "own:"]
    assert done.exit_code == 2


def test_a_test_brings_its_context_and_kind(script, tmp_path):
    policy = yaml.safe_load(FILE)
    policy["tests"] = [
        {"text": "a", "expect": "accepted", "prompt": "p"},
        {"text": "a", "expect": "accepted", "parent": "p"},
        {"text": "a", "expect": "accepted", "kind": "comment"},
        {"text": "a", "expect": "accepted"},
    ]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(policy))
    engine = script(0.9, 0.9, 0.9, 0.9)
    assert call("policy", "test", "own.yaml").exit_code == 0
    assert len({request.segments for request in engine.seen}) == 4


def test_without_names_the_tests_of_all_policies_run(own, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "own.yaml").rename(tmp_path / "more" / "own.yaml")
    done = call("policy", "test", "--policies", "more")
    assert done.exit_code in (0, 1)
    assert re.search(r"^own: \d of 2 passed$", done.stdout, re.MULTILINE)
    assert re.search(r"^self-reflection: ", done.stdout, re.MULTILINE)


def test_an_unknown_policy_has_no_tests(capsys):
    assert run(capsys, "policy", "test", "nope")[0] == 2
    assert run(capsys, "policy", "show", "nope")[0] == 2


def test_errors_of_files_keep_their_status(capsys, monkeypatch):
    def load(_settings):
        raise InvalidFile("a message", hint="A hint.")

    monkeypatch.setattr(Moderator, "load", load)
    assert run(capsys, "check", "x") == (2, "", "guard: error: a message A hint.\n")


class TestPlan:
    """`guard plan`: sizes and rates of a model."""

    RATES = ("--gflops", "900", "--gbytes", "30")

    def plan(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["plan", *arguments])
        return done.exit_code, done.output + str(done.exception or "")

    def test_the_embedded_model_from_its_configuration(self, monkeypatch):
        monkeypatch.setattr("guard.cli.ceilings", lambda: pytest.fail("rates were given"))
        status, said = self.plan("embedded", *self.RATES)
        assert status == 0 and "0.02 billion weights, 6 layers of 384" in said and "900 GFLOP/s" in said

    def test_rates_that_are_not_given_are_measured(self):
        status, said = self.plan("embedded")
        assert status == 0 and "GFLOP/s of products" in said

    def test_experts_and_windows_are_read_from_a_checkpoint(self, tmp_path):
        saved(tmp_path / "q", "qwen2")
        saved(tmp_path / "x", "mixtral")
        assert "a window of 9 in 2 of them" in self.plan(str(tmp_path / "q"), *self.RATES)[1]
        assert "no window" in self.plan(str(tmp_path / "x"), *self.RATES)[1]

    def test_known_models_beside_each_other(self):
        status, said = self.plan("--compare")
        assert status == 0 and said.count("Mistral 7B") == 2

    @pytest.mark.parametrize("arguments", [(), ("embedded", "--compare"), ("--shape", "layers=1"), ("/nowhere/x",)])
    def test_bad_arguments(self, arguments):
        status, said = self.plan(*arguments)
        assert status != 0 and said


class TestKeys:
    """`guard keys`: a file of keys, from outside."""

    FILE = ("--keys", "keys.sqlite")

    def listed(self, capsys):
        status, out, _ = run(capsys, "keys", "list", "--json", *self.FILE)
        assert status == 0
        return [json.loads(line) for line in out.splitlines()]

    def test_a_key_is_made_listed_and_revoked(self, capsys):
        arguments = ("--policy", "mistral-9", "--categories", "pii,sexual", "--requests-per-minute", "60")
        more = ("--tokens-per-minute", "9000", "--mode", "shadow", "--fail", "open")
        status, secret, said = run(capsys, "keys", "create", "--name", "forum", *arguments, *more, *self.FILE)
        (key,) = self.listed(capsys)
        assert (status, said) == (0, f"key {key['id']}: its secret is shown this once\n")
        with KeyBook(Path("keys.sqlite")) as book:
            assert book.find(secret.strip()) == Key.model_validate(key)
        told = (key[name] for name in ("name", "policy", "categories", "mode", "fail"))
        assert [*told] == ["forum", "mistral-9", ["pii", "sexual"], "shadow", "open"]
        assert (key["requests_per_minute"], key["tokens_per_minute"], key["revoked"]) == (60, 9000, None)
        assert run(capsys, "keys", "revoke", key["id"], *self.FILE) == (0, "", "")
        assert self.listed(capsys)[0]["revoked"] is not None
        with KeyBook(Path("keys.sqlite")) as book:
            assert book.find(secret.strip()) is None

    def test_the_table_shows_no_secret_and_escapes_names(self, capsys):
        _, secret, _ = run(capsys, "keys", "create", "--name", ESCAPE, *self.FILE)
        run(capsys, "keys", "create", "--name", "limited", "--requests-per-minute", "12345", *self.FILE)
        status, out, _ = run(capsys, "keys", "list", *self.FILE)
        lines = out.splitlines()
        assert status == 0 and "\x1b" not in out and "\\x1b[31mred" in lines[1]
        assert secret.strip().rpartition("_")[2] not in out
        assert lines[0].split()[:4] == ["id", "name", "policy", "categories"] and "12345" in lines[-1]

    def test_the_setting_names_the_file(self, capsys, monkeypatch):
        status, _, said = run(capsys, "keys", "list")
        assert status == 2 and "There is no file of keys" in said and "GUARD_KEYS" in said
        monkeypatch.setenv("GUARD_KEYS", "other.sqlite")
        assert run(capsys, "keys", "create", "--name", "x")[0] == 0
        assert run(capsys, "keys", "list", "--json")[1].count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("create",), "--name"), (("create", "--name", "x", "--policy", "nope"), "'nope'"),
            (("create", "--name", "x", "--categories", "pii"), "--policy"),
            (("create", "--name", "x", "--policy", "mistral-9", "--categories", ","), "--categories"),
            (("create", "--name", "x", "--policy", "mistral-9", "--categories", "pii,nope"), "'nope'"),
            (("create", "--name", "x", "--requests-per-minute", "0"), "requests-per-minute"),
            (("create", "--name", "x", "--mode", "off"), "--mode"), (("list",), "no file of keys"),
            (("revoke", "abc"), "no file of keys"),
        ],
    )  # fmt: skip
    def test_what_does_not_hold_is_refused_and_makes_no_file(self, capsys, arguments, said):
        status, out, error = run(capsys, "keys", *arguments, *self.FILE)
        assert (status, out) == (2, "") and said in error and error.count("\n") == 1
        assert not Path("keys.sqlite").exists()

    def test_a_key_that_is_not_there_cannot_be_revoked(self, capsys):
        run(capsys, "keys", "create", "--name", "x", *self.FILE)
        status, _, error = run(capsys, "keys", "revoke", "abc", *self.FILE)
        assert status == 2 and "no key 'abc'" in error
