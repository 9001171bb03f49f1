"""The guarded chat over real sockets on both sides: OpenAI's own client in front, a scripted assistant behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

from guard.errors import EngineError
from guard.item import Item, Kind
from guard.moderator import Moderator
from guard.resources import shipped
from guard.service.app import create_app
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from tests.service.scripted import BAD, Judge, Scripted, chunk, scripted
from tests.service.support import error_of, listening, until

SAID = f"Well, one two three {BAD} four five six seven."
HELLO = [{"role": "user", "content": "Hello you"}]


class Chat:
    """A guarded chat, its assistant and its judge."""

    def __init__(self, stack: ExitStack, tokenizer: Tokenizer, assistant: Scripted, changed: dict[str, Any]) -> None:
        self.assistant, self.judge = assistant, Judge(tokenizer)
        settings = Settings(**{"assistant": assistant.url, **changed})
        self.moderator = Moderator(self.judge, tokenizer, settings=settings)
        self.url = stack.enter_context(listening(create_app(self.moderator, settings)))
        self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=60))
        self.sdk = stack.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0))
        until(lambda: self.http.get("/readyz").status_code == 200)

    def ask(self, messages: Any = HELLO, **body: Any) -> Any:
        return self.sdk.chat.completions.create(model="scripted", messages=messages, extra_body=body)

    def stream(self, messages: Any = HELLO, **body: Any) -> list[Any]:
        return list(self.sdk.chat.completions.create(model="scripted", messages=messages, stream=True, extra_body=body))

    def text(self, messages: Any = HELLO, **body: Any) -> tuple[str, str | None]:
        """What a stream brings, and how it ends."""
        chunks = self.stream(messages, **body)
        choices = [choice for each in chunks for choice in each.choices]
        reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
        assert len(reasons) == 1, "one end"
        return "".join(choice.delta.content or "" for choice in choices), reasons[0]

    def raw(self, messages: Any = HELLO, **body: Any) -> str:
        return self.http.post("/v1/chat/completions", json={"messages": messages, "stream": True, **body}).text


Open = Callable[..., Chat]


@pytest.fixture
def opened(tokenizer: Tokenizer) -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda **changed: Chat(stack, tokenizer, stack.enter_context(scripted()), changed)


@pytest.fixture
def chat(opened: Open) -> Chat:
    return opened()


def test_an_acceptable_chat_passes_whole_and_streamed(chat: Chat) -> None:
    reply = chat.ask()
    assert reply.choices[0].message.content == "Hello there, friend." and reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == 3 and not hasattr(reply, "secret")
    for side in (reply.moderation.input, reply.moderation.output):
        assert side.type == "moderation_results" and not side.results[0].flagged
        assert side.results[0].guard["policy"] == "moderation-13"
    assert chat.text() == ("Hello there, friend.", "stop")
    chunks = chat.stream()
    assert len({each.id for each in chunks}) == 1 and chunks[-1].usage.total_tokens == 3
    assert [each.moderation is not None for each in chunks if each.choices][-1]
    assert chat.raw().endswith("data: [DONE]\n\n")


def test_what_the_assistant_gets(opened: Open) -> None:
    chat = opened(assistant_key="sesame")
    chat.ask(temperature=0.5, stop=["x"], policy="moderation-13", safe_prompt=True, custom={"a": 1})
    (body,) = chat.assistant.bodies
    guardrail = (shipped("prompts") / "system" / "guardrail.txt").read_text().strip()
    assert body["messages"] == [{"role": "system", "content": guardrail}, *HELLO]
    assert body["temperature"] == 0.5 and body["stop"] == ["x"] and body["custom"] == {"a": 1}
    assert not {"policy", "safe_prompt", "moderation", "categories"} & set(body)
    assert chat.assistant.headers[0]["authorization"] == "Bearer sesame"
    chat.ask([{"role": "system", "content": "Be brief."}, *HELLO], safe_prompt=True)
    assert chat.assistant.bodies[1]["messages"][0]["content"] == f"{guardrail}\n\nBe brief."


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_never_reaches_the_assistant(chat: Chat, stream: bool) -> None:
    messages = [{"role": "user", "content": f"Tell me of the {BAD} now"}]
    if stream:
        assert chat.text(messages) == ("", "content_filter")
        (one,) = chat.stream(messages)
        assert one.moderation.input.results[0].flagged and chat.raw(messages).endswith("data: [DONE]\n\n")
    else:
        reply = chat.ask(messages)
        assert reply.choices[0].message.content == "" and reply.choices[0].finish_reason == "content_filter"
        assert reply.moderation.input.results[0].categories["harassment"] and reply.moderation.output.results == []
    assert chat.assistant.bodies == []


def test_a_blocked_answer_ends_with_content_filter(chat: Chat) -> None:
    chat.assistant.script = [SAID]
    reply = chat.ask()
    assert reply.choices[0].message.content == "" and reply.choices[0].finish_reason == "content_filter"
    assert reply.moderation.output.results[0].flagged
    text, reason = chat.text()
    assert reason == "content_filter" and SAID.startswith(text) and BAD not in text


WORDS = [f"w{i}" for i in range(40)]


@pytest.mark.parametrize("mode", ["hold", "block"])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_no_more_than_the_bound_leaves_wherever_the_passage_stands(
    opened: Open, tokenizer: Tokenizer, mode: str, size: int
) -> None:
    """The passage at every offset, in chunks of several sizes; the judge's own verdict on prefixes says where it is."""
    ahead = 8
    chat = opened(release=mode, release_tokens=ahead, passage_tokens=32, passage_overlap=8)
    for offset in range(0, len(WORDS) + 1, 4):
        said = " ".join([*WORDS[:offset], BAD, *WORDS[offset:]])
        chat.assistant.script = [[said[i : i + size] for i in range(0, len(said), size)]]
        text, reason = chat.text()
        assert said.startswith(text) and reason == "content_filter", offset
        context = Item(text="-", kind=Kind.ANSWER, prompt="Hello you")
        policy = chat.moderator.policies.get("moderation-13")
        prefixes = [said[: i + 1] for i in range(len(said))]
        items = (context.model_copy(update={"text": prefix}) for prefix in prefixes)
        flagged = next(item.text for item in items if not chat.moderator.judge(item, policy=policy).accepted)
        beyond = len(tokenizer.encode(text[len(flagged) :]))
        assert beyond <= (ahead if mode == "block" else 0), (offset, text)
        if mode == "hold":
            assert BAD not in text


def test_in_block_mode_text_leaves_at_once_and_the_stream_is_ended_when_it_is_flagged(opened: Open) -> None:
    chat = opened(release="block", release_tokens=1000)
    chat.assistant.script = [["one", " two", " three", f" {BAD}", " tail", " tail"]]
    chat.assistant.pause = 0.2
    text, reason = chat.text()
    assert reason == "content_filter" and BAD in text and "tail" not in text


def test_score_mode_lets_all_pass_and_tells(opened: Open) -> None:
    chat = opened(release="score")
    chat.assistant.script = [SAID]
    assert chat.text() == (SAID, "stop")
    assert chat.stream()[-2].moderation.output.results[0].flagged
    assert chat.ask().moderation.output.results[0].flagged
    # a request may ask for less than an anonymous service does, and for more
    assert chat.text(moderation={"model": "x", "policy": {"output": {"mode": "block"}}})[1] == "content_filter"
    prompt = [{"role": "user", "content": f"The {BAD} please"}]
    assert chat.text(prompt, moderation={"model": "x", "policy": {"input": {"mode": "score"}}})[0] == SAID


def test_every_text_of_an_answer_is_judged(chat: Chat) -> None:
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": f'{{"a": " {BAD}"}}'},
    }
    for delta in ({"reasoning_content": f"so {BAD}"}, {"refusal": f"no {BAD}"}, {"tool_calls": [call]}):
        chat.assistant.script = [[delta]]
        assert BAD not in chat.raw() and '"content_filter"' in chat.raw()
        chat.assistant.script = [delta]
        reply = chat.http.post("/v1/chat/completions", json={"messages": HELLO})
        assert BAD not in reply.text and "content_filter" in reply.text
    harmless = {**call, "function": {"name": "look", "arguments": '{"a": 1}'}}
    chat.assistant.script = [[{"tool_calls": [harmless]}]]
    calls = [c.delta.tool_calls for each in chat.stream() for c in each.choices if c.delta.tool_calls]
    assert calls[0][0].function.arguments == '{"a": 1}' and calls[0][0].function.name == "look"
    named = {**harmless, "function": {"name": "look", "arguments": ""}}  # as the first part of a call comes
    rest = {"index": 0, "function": {"arguments": '{"a": 1}'}}
    chat.assistant.script = [
        [{"tool_calls": [named]}, {"tool_calls": [rest]}, {"tool_calls": [{**rest, "function": 5}]}]
    ]
    calls = [c.delta.tool_calls[0] for each in chat.stream() for c in each.choices if c.delta.tool_calls]
    assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [
        ("call_1", "look", ""), (None, None, '{"a": 1}')
    ]  # fmt: skip
    chat.assistant.script = [{"content": None, "tool_calls": [{k: v for k, v in harmless.items() if k != "index"}]}]
    (call,) = chat.ask().choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "look", '{"a": 1}')
    chat.assistant.script = [[{"unheard_of": f"a {BAD}"}, "fine"]]
    assert BAD not in chat.raw() and chat.text() == ("fine", "stop")


def test_probabilities_pass_without_their_alternatives(chat: Chat) -> None:
    token = {
        "token": "fine",
        "logprob": -0.1,
        "bytes": None,
        "top_logprobs": [{"token": BAD, "logprob": -2, "bytes": None}],
    }
    with_probs = chunk({"content": "fine"})
    with_probs["choices"][0]["logprobs"] = {"content": [token]}
    forged = chunk({"content": "more"})
    forged["choices"][0]["logprobs"] = {"content": [{**token, "token": BAD}]}
    chat.assistant.script = [[with_probs, forged]]
    raw = chat.raw()
    assert BAD not in raw and '"token": "fine"' in raw


def test_several_choices_are_guarded_each(chat: Chat) -> None:
    chat.assistant.script = [[
        chunk({"content": "good"}), chunk({"content": f"bad {BAD}"}, index=1), chunk({"content": " more"}, index=1),
        chunk({"content": " still good"}), chunk({}, "stop", index=1), chunk({"content": "not asked for"}, index=7),
    ]]  # fmt: skip
    texts, reasons = ["", ""], ["", ""]
    for each in chat.stream(n=2):
        for choice in each.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += choice.finish_reason or ""
    assert texts[0] == "good still good" and BAD not in texts[1] and "more" not in texts[1]
    assert reasons == ["stop", "content_filter"]


def test_one_hit_does_not_end_the_conversation(chat: Chat) -> None:
    messages = [
        {"role": "user", "content": f"A {BAD} first"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": "Then something nice"},
    ]  # fmt: skip
    assert chat.text(messages)[1] == "stop"
    assert chat.assistant.bodies[0]["messages"] == messages[2:], "what was blocked is left out, with its answer"


def test_the_last_turn_is_judged_with_those_before(chat: Chat, tokenizer: Tokenizer) -> None:
    chat.judge._words = [tuple(tokenizer.encode("one half\n\nwhole"))]
    messages = [{"role": "user", "content": "one half"}, {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "whole"}]  # fmt: skip
    assert chat.text(messages)[1] == "content_filter" and chat.text(messages[2:])[1] == "stop"


@pytest.mark.parametrize("where", ["tool", "documents", "document object", "last words"])
def test_what_the_assistant_is_given_to_read_is_judged_as_such(chat: Chat, where: str) -> None:
    messages: list[dict[str, Any]] = [*HELLO]
    extra: dict[str, Any] = {}
    match where:
        case "tool":
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": f"Found a {BAD}"},
            ]  # fmt: skip
        case "documents":
            extra["documents"] = ["fine", f"a {BAD}"]
        case "document object":
            extra["documents"] = [{"title": "t", "data": {"snippet": [f"a {BAD}"]}}]
        case _:
            messages.append({"role": "assistant", "content": f"So the {BAD}"})
    reply = chat.ask(messages, **extra)
    assert reply.choices[0].finish_reason == "content_filter" and not chat.assistant.bodies
    flagged = [r.guard["policy"] for r in reply.moderation.input.results if r.flagged]
    assert flagged == ["moderation-13" if where == "last words" else "injection"]


def test_who_cannot_be_judged_is_an_error_or_passes_and_either_is_told(opened: Open) -> None:
    closed, opened_ = opened(), opened(fail="open")
    for chat in (closed, opened_):
        chat.judge.broken = EngineError("broken")
    error = error_of(closed.http.post("/v1/chat/completions", json={"messages": HELLO}), 500)
    assert error["code"] == "engine_error" and not closed.assistant.bodies
    reply = opened_.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert reply.headers["x-guard-failed-open"] == "engine_error"
    assert reply.json()["choices"][0]["message"]["content"] == "Hello there, friend."
    assert reply.json()["moderation"]["output"]["type"] == "error"


def test_a_judge_that_fails_in_mid_stream(opened: Open) -> None:
    for fail, ending in (("closed", "content_filter"), ("open", "stop")):
        chat = opened(fail=fail)
        chat.assistant.script = [["one ", "two ", "three ", "four"]]
        chat.assistant.pause = 0.3
        text, reason = "", None
        for each in chat.sdk.chat.completions.create(model="x", messages=HELLO, stream=True):  # type: ignore[call-overload]
            if text == "one ":
                chat.judge.broken = EngineError("broken")
            for choice in each.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
                told = each.moderation or None
        assert reason == ending
        assert (text == "one two three four") == (fail == "open") and text.startswith("one ")
        assert told is None or told.output.type == "error"


def test_shadow_mode_stops_nothing_and_says_so(opened: Open) -> None:
    chat = opened(mode="shadow")
    chat.assistant.script = [SAID]
    reply = chat.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": f"A {BAD} please"}]})
    assert reply.headers["x-guard-mode"] == "shadow" and reply.json()["choices"][0]["message"]["content"] == SAID
    assert reply.json()["moderation"]["input"]["results"][0]["guard"]["decision"] == "flag"


def misbehaving(tokenizer: Tokenizer) -> dict[str, Callable[[Any], None]]:
    def garbage(handler: Any) -> None:
        handler.begin()
        handler.raw(b"data: {not json}\n\n")

    def no_choices(handler: Any) -> None:
        handler.begin()
        handler.event({"hello": "there"})

    def half_a_character(handler: Any) -> None:
        handler.begin()
        handler.event(chunk({"content": "one "}))
        handler.raw(b'data: {"choices": [{"index": 0, "delta": {"content": "\xc3"}}]}\n\n')

    def breaks_off(handler: Any) -> None:
        handler.begin()
        handler.event(chunk({"content": "one "}))

    def resets(handler: Any) -> None:
        handler.begin()
        handler.event(chunk({"content": "one "}))
        time.sleep(0.1)
        handler.reset()

    def stalls(handler: Any) -> None:
        handler.begin()
        handler.event(chunk({"content": "one "}))
        time.sleep(3)

    def endless_line(handler: Any) -> None:
        handler.begin()
        for _ in range(40):
            handler.raw(b"data: " + b"x" * 65536)

    def done_too_early(handler: Any) -> None:
        handler.begin()
        handler.event(chunk({"content": "one "}))
        handler.raw(b"data: [DONE]\n\n")

    def silent(handler: Any) -> None:
        time.sleep(3)

    def status_500(handler: Any) -> None:
        handler.send(500, b"oh no")

    def wrong_types(handler: Any) -> None:
        handler.begin()
        handler.event(
            {"id": 5, "model": [BAD], "created": "x", "choices": [7, {"delta": 3}, {"delta": {"content": 5}}]}
        )
        handler.event({"choices": [{"index": "a", "delta": {"content": "fine"}, "finish_reason": 9}]})

    found = locals()
    return {name: each for name, each in found.items() if callable(each)}


@pytest.mark.parametrize("how", sorted(misbehaving(None)))  # type: ignore[arg-type]
def test_an_assistant_that_misbehaves(opened: Open, how: str) -> None:
    """An error with a status before anything was said, else one in the stream; never a hang, never a torn stream."""
    chat = opened(assistant_seconds=1.0)
    chat.assistant.script = [misbehaving(None)[how]]  # type: ignore[arg-type]
    reply = chat.http.post("/v1/chat/completions", json={"messages": HELLO, "stream": True})
    if reply.status_code == 200:
        assert reply.text.endswith("data: [DONE]\n\n"), reply.text
        events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        assert events[-1]["error"]["code"] == "assistant_failed" and BAD not in reply.text
        with pytest.raises(openai.APIError):
            chat.stream()
    else:
        assert error_of(reply, 502)["code"] == "assistant_failed"
    whole = chat.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert whole.status_code in (200, 502), whole.text


@pytest.mark.parametrize("choices", [[], [5], [{"index": 0}], [{"index": 3, "message": {"content": BAD}}]])
def test_a_whole_answer_without_a_message(chat: Chat, choices: list[Any]) -> None:
    chat.assistant.script = [lambda h: h.send(200, json.dumps({"choices": choices}).encode())]
    reply = chat.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert error_of(reply, 502)["code"] == "assistant_failed" and BAD not in reply.text


def test_an_assistant_that_cannot_be_reached_refuses_or_is_busy(chat: Chat, opened: Open) -> None:
    gone = opened(assistant="http://127.0.0.1:9/v1")
    assert error_of(gone.http.post("/v1/chat/completions", json={"messages": HELLO}), 502)["code"] == "assistant_failed"
    chat.assistant.script = [lambda h: h.send(400, b'{"error": {"message": "too long a context"}}')]
    error = error_of(chat.http.post("/v1/chat/completions", json={"messages": HELLO}), 400)
    assert error["code"] == "assistant_refused" and "too long a context" in str(error["message"])
    chat.assistant.script = [lambda h: h.send(429, b"")]
    busy = chat.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert error_of(busy, 429) and int(busy.headers["retry-after"]) >= 1
    chat.assistant.script = [lambda h: h.send(401, b"secret reason")]
    assert "secret" not in chat.http.post("/v1/chat/completions", json={"messages": HELLO}).text


def test_a_client_that_leaves_ends_the_work(chat: Chat) -> None:
    chat.assistant.script = [["word "] * 400]
    chat.assistant.pause = 0.02
    with chat.http.stream("POST", "/v1/chat/completions", json={"messages": HELLO, "stream": True}) as reply:
        lines = reply.iter_lines()  # kept: the stream ends with it
        next(lines)
    assert chat.assistant.gone.wait(10)
    chat.assistant.script, chat.assistant.pause = ["fine"], 0
    assert chat.text() == ("fine", "stop")


def test_no_more_chats_at_once_than_there_are_places(opened: Open) -> None:
    chat = opened(max_chats=1)
    chat.assistant.script = [["word "] * 200]
    chat.assistant.pause = 0.02
    with chat.http.stream("POST", "/v1/chat/completions", json={"messages": HELLO, "stream": True}) as reply:
        lines = reply.iter_lines()  # kept: the stream ends with it
        next(lines)
        second = httpx.post(f"{chat.url}/v1/chat/completions", json={"messages": HELLO}, timeout=30)
        assert error_of(second, 429)["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"), ({"messages": "hi"}, 400, "messages"), ({}, 400, "messages"),
        ({"messages": [{"role": "villain", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400,
         "messages.0.content.0"),
        ({"messages": HELLO, "n": 100}, 400, "n"), ({"messages": HELLO, "documents": [5]}, 400, "documents.0"),
        ({"messages": HELLO, "policy": "none such"}, 400, "policy"),
        ({"messages": HELLO, "policy": "forum-comments"}, 400, "kind"),
        ({"messages": HELLO, "moderation": {"policy": {"output": {"mode": "off"}}}}, 400,
         "moderation.policy.output.mode"),
    ],
)  # fmt: skip
def test_bad_requests_name_the_field(chat: Chat, body: dict[str, Any], status: int, param: str) -> None:
    assert error_of(chat.http.post("/v1/chat/completions", json=body), status)["param"] == param
    assert not chat.assistant.bodies


def test_without_an_assistant_it_is_not_offered(opened: Open) -> None:
    chat = opened(assistant=None)
    assert error_of(chat.http.post("/v1/chat/completions", json={"messages": HELLO}), 501)["code"] == "not_offered"


def test_a_model_of_our_own_behind_it(opened: Open) -> None:
    """The fake model echoes its prompt."""
    chat = opened(assistant="fake")
    reply = chat.ask(max_tokens=50, temperature=0)
    assert reply.choices[0].message.content.strip().endswith("hello you") and reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == len(chat.moderator.tokenizer.chat([("user", "Hello you")]))
    text, reason = chat.text([{"role": "user", "content": "a b c d e f g"}], max_tokens=4)
    assert reason == "length" and text
    assert (
        error_of(chat.http.post("/v1/chat/completions", json={"messages": HELLO, "tools": [{}]}), 400)["param"]
        == "tools"
    )
    assert error_of(chat.http.post("/v1/chat/completions", json={"messages": HELLO, "temperature": -1}), 400)
