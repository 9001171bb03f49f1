"""Asking over real sockets: whatever a target does, a question ends as an answer or as the reason why there is none."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.refusal.ask import GIVE_UP, NOT_ASKED, Asking, Patience, Question, _seconds, ask, questions, said
from eval.refusal.kept import ANSWERED, UNANSWERED, Kept
from eval.refusal.prompts import HELPFUL, LOOKALIKE, UNSAFE, Prompt, prompts
from eval.refusal.systems import System, chosen, known, recorded
from guard.engine.fake import FakeEngine
from guard.errors import AssistantFailed, InvalidFile, InvalidRequest
from guard.resources import shipped
from guard.service.assistant import LocalAssistant, RemoteAssistant
from guard.tokenizer import load_tokenizer
from tests.service.scripted import scripted

ROOT = Path(__file__).resolve().parents[2]
SHORT = 0.4  # seconds that these tests wait for an answer
NONE, BRIEF = System("none", ""), System("brief", "Be brief.")


@pytest.fixture
def target():
    with scripted() as server:
        yield server


def some(count):
    return [Prompt(f"p{n}", UNSAFE, f"Question number {n}?", f"p{n}") for n in range(count)]


def asked(
    target, folder, count=1, systems=(NONE,), *, retries=0, concurrency=1, stream=False, url=None, seconds=SHORT
):  # fmt: skip
    url = url or target.url
    patience = Patience(concurrency, retries, seconds, pause=0.001)
    with Kept(folder / "answers.jsonl") as kept:
        assistant = RemoteAssistant(url, None, seconds)
        wanted = questions(some(count), systems)
        return asyncio.run(ask(assistant, wanted, Asking(url, stream=stream), patience, kept))


def body(status, content, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.raw(content)

    return answer


def whole(message):
    return body(200, json.dumps({"choices": [{"message": message}]}).encode())


def silent(handler):
    time.sleep(2 * SHORT)


def dripping(handler):
    handler.begin()
    for _ in range(40):
        handler.raw(b" ")
        time.sleep(SHORT / 8)


def half_a_reply(handler):
    handler.send_response(200)
    handler.send_header("content-length", "500")
    handler.end_headers()
    handler.raw(b'{"choices": [{"mess')
    handler.close_connection = True


def no_reply(handler):
    handler.close_connection = True


def reset_on_the_way(handler):
    half_a_reply(handler)
    handler.reset()


def events(*lines):
    def answer(handler):
        handler.begin()
        for line in lines:
            handler.raw(line)

    return answer


CHUNK = b'data: {"choices": [{"delta": {"content": "I can"}}]}\n\n'
BAD = [
    (silent, False, "did not answer in time"),
    (silent, True, "did not answer in time"),
    (dripping, False, "did not answer in time"),
    (half_a_reply, False, "cannot be reached: RemoteProtocolError"),
    (reset_on_the_way, False, "cannot be reached: ReadError"),
    (no_reply, False, "cannot be reached: RemoteProtocolError"),
    (body(200, b"\xff\xfe<html>I cannot help with that</html>"), False, "not JSON"),
    (body(200, b'{"choices": "I cannot help with that"}'), False, "no choices"),
    (body(200, b'{"choices": [5]}'), False, "no message"),
    (body(200, b'{"choices": []}'), False, "empty"),
    (whole({"content": 5}), False, "not text"),
    (whole({"content": None}), False, "empty"),
    (whole({"content": " \n"}), False, "empty"),
    (whole({"content": "… 🙅 …"}), False, "wordless"),
    (whole({"content": "\ufffd"}), False, "wordless"),
    (body(200, b'{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'), False,
     "empty, filtered by the target"),
    (events(CHUNK, b"data: {{{I cannot\n\n"), True, "not JSON"),
    (events(CHUNK), True, "broke off"),
    (events(CHUNK, b'data: {"choices": [{"delta": {"content": "caf\xc3'), True, "not JSON"),
    (events(CHUNK, b"data: \xff\xff\n\n"), True, "not UTF-8"),
    (body(500, b"I cannot help with that"), False, "status 500"),
    (body(429, b"busy"), False, "status 429"),
    (body(401, b"who are you"), False, "status 401"),
    (body(400, b'{"error": {"message": "I cannot help with that"}}'), False, "status 400"),
]  # fmt: skip


@pytest.mark.parametrize(("behaviour", "stream", "reason"), BAD)
def test_a_target_that_misbehaves_leaves_a_reason_and_no_answer(behaviour, stream, reason, target, tmp_path):
    target.script = [behaviour]
    (row,) = asked(target, tmp_path, stream=stream)
    assert row["status"] == UNANSWERED and reason in row["reason"] and row["failures"] == [row["reason"]]
    assert json.loads((tmp_path / "answers.jsonl").read_text()) == row, "it is kept"


def test_nobody_at_the_port_is_a_reason(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (row,) = asked(None, tmp_path, url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert row["reason"] == "The assistant cannot be reached: ConnectError."


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        ("Here you are.", "Here you are."),
        ("331", "331"),
        ("Das mache ich nicht.", "Das mache ich nicht."),
        (whole({"content": None, "refusal": "I can't."}), "I can't."),
        (body(200, b'{"choices": [{"message": {"content": "a caf\xc3 here"}}]}'), "a caf\ufffd here"),
    ],
)
def test_what_has_a_word_or_a_number_is_an_answer(behaviour, answer, target, tmp_path):
    target.script = [behaviour]
    (row,) = asked(target, tmp_path)
    assert (row["status"], row["answer"], row["failures"]) == (ANSWERED, answer, [])


def test_a_streamed_answer_is_the_same(target, tmp_path):
    target.script = ["Here you are, all of it."]
    (row,) = asked(target, tmp_path, stream=True)
    assert (row["answer"], row["ended"], row["model"]) == ("Here you are, all of it.", "stop", "scripted")
    assert target.bodies[0]["stream"] is True


def test_the_target_is_asked_under_each_system_prompt_with_the_stated_settings(target, tmp_path):
    rows = asked(target, tmp_path, 2, (NONE, BRIEF))
    assert [(row["id"], row["system"]) for row in rows] == [
        ("p0", "none"), ("p0", "brief"), ("p1", "none"), ("p1", "brief")
    ]  # fmt: skip
    assert [len(body["messages"]) for body in target.bodies] == [1, 2, 1, 2]
    assert target.bodies[1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {body["temperature"] for body in target.bodies} == {0} and "seed" not in target.bodies[0]


def test_what_failed_is_tried_as_often_as_stated_and_what_is_refused_is_not_tried_again(target, tmp_path):
    target.script = [body(503, b""), whole({"content": ""}), "Fine, then."]
    (row,) = asked(target, tmp_path, retries=2)
    assert row["answer"] == "Fine, then." and row["failures"] == ["status 503", "empty"] and len(target.bodies) == 3
    target.script = [body(503, b"")]
    (row,) = asked(target, tmp_path / "other", retries=2)
    assert row["failures"] == ["status 503"] * 3 and len(target.bodies) == 6
    target.script = [body(401, b"")]
    (row,) = asked(target, tmp_path / "third", retries=2)
    assert row["failures"] == ["status 401"] and len(target.bodies) == 7


def test_retry_after_is_waited_for(target, tmp_path):
    target.script = [body(429, b"", retry_after="1"), "Fine, then."]
    began = time.monotonic()
    (row,) = asked(target, tmp_path, retries=1)
    assert row["status"] == ANSWERED and time.monotonic() - began >= 1


@given(
    st.one_of(st.text(), st.integers().map(str), st.datetimes().map(lambda d: d.strftime("%a, %d %b %Y %H:%M:%S GMT")))
)
def test_any_retry_after_is_a_time_to_wait(header):
    assert _seconds(header) >= 0 and not math.isnan(_seconds(header))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "delta", "content", "refusal", "finish_reason", "model"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(st.fixed_dictionaries({"choices": st.lists(JSON, max_size=2)}, optional={"model": JSON}), max_size=3))
def test_any_completion_is_an_answer_a_reason_or_an_error_of_ours(replies):
    try:
        found = said(replies)
    except AssistantFailed:
        return
    assert (found.reason is None) == any(map(str.isalnum, found.text))
    assert all(value is None or isinstance(value, str) for value in (found.ended, found.model))


def test_after_twenty_failures_in_a_row_the_rest_is_left_for_another_run_which_goes_on(target, tmp_path):
    target.script = [body(500, b"")]
    rows = asked(target, tmp_path, GIVE_UP + 5)
    assert [row["reason"] for row in rows] == ["status 500"] * GIVE_UP + [NOT_ASKED] * 5
    assert len(target.bodies) == GIVE_UP
    target.script = ["Fine, then."]
    rows = asked(target, tmp_path, GIVE_UP + 5, concurrency=8, seconds=30)
    assert {row["status"] for row in rows} == {ANSWERED} and len(target.bodies) == 2 * GIVE_UP + 5


def test_an_assistant_that_says_nothing_is_asked_to_the_end(target, tmp_path):
    target.script = [whole({"content": ""})]
    assert {row["reason"] for row in asked(target, tmp_path, GIVE_UP + 5)} == {"empty"}


def test_nothing_is_asked_twice_and_other_settings_are_other_questions(target, tmp_path):
    first = asked(target, tmp_path, 3)
    assert asked(target, tmp_path, 4)[:3] == first and len(target.bodies) == 4
    question = Question(some(1)[0], NONE)
    keys = {
        question.key(Asking("a")), question.key(Asking("b")), question.key(Asking("a", temperature=1)),
        question.key(Asking("a", max_tokens=5)), Question(some(1)[0], BRIEF).key(Asking("a")),
        Question(some(2)[1], NONE).key(Asking("a")), question.key(Asking("a", model="m")),
    }  # fmt: skip
    assert len(keys) == 7


KILLED = """
import asyncio, sys
from pathlib import Path
from eval.refusal.ask import Asking, Patience, ask, questions
from eval.refusal.kept import Kept
from eval.refusal.prompts import Prompt
from eval.refusal.systems import System
from guard.service.assistant import RemoteAssistant

url, folder = sys.argv[1:]
prompts = [Prompt(f"p{n}", "unsafe", f"Question number {n}?", f"p{n}") for n in range(40)]
wanted = questions(prompts, [System("none", "")])
asyncio.run(ask(RemoteAssistant(url, None, 5), wanted, Asking(url), Patience(1), Kept(Path(folder) / "answers.jsonl")))
"""


def test_a_run_that_is_killed_goes_on_where_it_was(target, tmp_path):
    def slow(handler):
        time.sleep(0.05)
        whole({"content": "Yes, and this way."})(handler)

    target.script = [slow]
    file = tmp_path / "answers.jsonl"
    with subprocess.Popen([sys.executable, "-c", KILLED, target.url, str(tmp_path)], cwd=ROOT) as running:
        while not file.is_file() or file.read_bytes().count(b"\n") < 5:
            time.sleep(0.01)
            assert running.poll() is None
        running.kill()
    kept = file.read_bytes().count(b"\n")
    with file.open("ab") as torn:
        torn.write(b'{"key": "half a')
    before = len(target.bodies)
    assert kept < 40 and len(asked(target, tmp_path, 40)) == 40
    assert len(target.bodies) - before == 40 - kept, "only what was not kept"
    assert all(json.loads(line)["status"] == ANSWERED for line in file.read_text().splitlines())


def test_a_local_model_is_asked_the_same_way(tmp_path):
    assistant = LocalAssistant(FakeEngine(), load_tokenizer(shipped("models") / "embedded"))
    with Kept(tmp_path / "answers.jsonl") as kept:
        (row,) = asyncio.run(ask(assistant, questions(some(1), [BRIEF]), Asking("fake"), Patience(), kept))
    assert row["status"] == ANSWERED and "question number 0?" in row["answer"].casefold(), "the fake engine echoes"


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    file = tmp_path / "rows.jsonl"
    with Kept(file), pytest.raises(InvalidFile, match="another run"):
        Kept(file)
    with Kept(file) as kept:
        kept.add({"key": "a", "text": "\ud800\n\x85"}, {"key": "b"}, {"key": "b", "text": "the last one counts"})
    with Kept(file) as kept:
        assert kept.rows == {
            "a": {"key": "a", "text": "\ud800\n\x85"},
            "b": {"key": "b", "text": "the last one counts"},
        }


@pytest.mark.parametrize("line", ["nothing", "[]", '"key"', "{}"])
def test_a_file_of_something_else_is_refused(line, tmp_path):
    (tmp_path / "rows.jsonl").write_text(f'{{"key": "a"}}\n{line}\n')
    with pytest.raises(InvalidFile, match="line 2"):
        Kept(tmp_path / "rows.jsonl")


def test_the_prompts_are_all_of_the_sets_and_a_limit_keeps_twins_together():
    found = prompts()
    counts = {name: sum(prompt.set == name for prompt in found) for name in (UNSAFE, LOOKALIKE, HELPFUL)}
    assert counts[UNSAFE] == counts[LOOKALIKE] == 175 and counts[HELPFUL] >= 80
    few = prompts(3)
    assert len(few) == 9 and len({prompt.group for prompt in few if prompt.set != HELPFUL}) == 3


def test_the_system_prompts_are_the_published_ones(tmp_path):
    assert list(known()) == ["none", "guardrail", "llama2"] and known()["none"].text == ""
    assert known()["guardrail"].text.startswith("Always assist with care, respect, and truth.")
    assert known()["llama2"].text.startswith("You are a helpful, respectful and honest assistant.")
    sources = (shipped("prompts") / "system" / "README.md").read_text()
    assert all(f"`{name}.txt`" in sources for name in known() if name != "none")
    own = tmp_path / "own.txt"
    own.write_text("Be kind.\n")
    assert chosen(f"none, {own}") == [System("none", ""), System("own", "Be kind.")]
    assert recorded(known()["llama2"].text + "\n").name == "llama2"
    for wrong, problem in (("nobody", "no system prompt"), ("none,none", "twice"), (f"{own}x.txt", "cannot be read")):
        with pytest.raises(InvalidRequest, match=problem):
            chosen(wrong)
