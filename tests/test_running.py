"""Judging while a text is written: the verdict on each prefix is that of the prefix alone, and the work is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.engine.fake import FakeEngine, FakeStream
from guard.engine.request import Ids, LogProbs, Request
from guard.errors import EngineError
from guard.item import Item, Kind
from guard.moderator import Moderator, Task
from guard.policy import Policy, PolicyBook, Rule
from guard.resources import shipped
from guard.running import Running
from guard.settings import Settings
from guard.tokenizer import load_tokenizer
from guard.verdict import Decision, Verdict

POLICY = PolicyBook().get("moderation-13").narrowed(None, Kind.ANSWER)
CONTEXT = Item(text="-", kind=Kind.ANSWER, prompt="Tell me how a pot of tea is made, in many words.")
TOKENIZER = load_tokenizer(shipped("models") / "embedded")
ANSWER = (
    "Of course! First, boil some water.\nThen warm the pot — pour a little in, swirl it, and throw it out.\n\n"
    "  * one spoon of leaves per cup,\n  * and one for the pot;\nnow you wait, you silly fool, for 4 minutes 😀. "
)


class Counting(FakeEngine):
    """The fake engine, counting the tokens that it has to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.most = 0  # requests asked together
        self.full = False

    def extend(self, stream: FakeStream, tokens: Ids) -> None:
        if self.full:
            raise EngineError("The memory for running texts is full.")
        self.tokens += len(tokens)
        super().extend(stream, tokens)

    def ask(self, stream: FakeStream, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        self.most = max(self.most, len(requests))
        self.tokens += sum(len(segment) for request in requests for segment in request.segments)
        return super().ask(stream, requests)


def moderator(engine: object = None, **changed: object) -> Moderator:
    return Moderator(engine or FakeEngine(), TOKENIZER, settings=Settings(**changed))  # type: ignore[arg-type]


def prefixes(text: str) -> list[str]:
    """Those that end with a word, as an assistant writes them."""
    ends = [i for i in range(1, len(text) + 1) if i == len(text) or text[i] == " "]
    return [text[:end] for end in ends if text[:end].strip()]


def alone(judge: Moderator, texts: Sequence[str], policy: Policy = POLICY) -> list[Verdict]:
    return [v for text in texts for v in judge.judge_many([Task(CONTEXT.model_copy(update={"text": text}), policy)])]


def running(judge: Moderator, texts: Sequence[str], at_once: int, policy: Policy = POLICY) -> list[Verdict]:
    judging = Running(judge, CONTEXT, policy)
    judging.prepare()
    found = [v for i in range(0, len(texts), at_once) for v in judging.judge(texts[i : i + at_once])]
    judging.close()
    return found


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_each_prefix_is_judged_as_if_it_were_alone(at_once: int) -> None:
    judge = moderator(passage_tokens=48, passage_overlap=8)
    texts = prefixes(ANSWER * 3)
    assert max(v.passages for v in alone(judge, texts)) >= 4, "several passages"
    assert running(judge, texts, at_once) == alone(judge, texts)


@settings(max_examples=40)
@given(parts=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12), at_once=st.integers(1, 5))
def test_also_of_whatever_text_in_whatever_parts(parts: list[str], at_once: int) -> None:
    judge = moderator(passage_tokens=32, passage_overlap=4)
    texts = [t for t in ("".join(parts[: i + 1]) for i in range(len(parts))) if t.strip()]
    assert running(judge, texts, at_once) == alone(judge, texts)


def test_also_by_the_model_itself() -> None:
    judge = Moderator.load(Settings(passage_tokens=64, passage_overlap=8))
    texts = prefixes(ANSWER * 2)
    for one, other in zip(running(judge, texts, 7), alone(judge, texts), strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-3)
        assert one.passages == other.passages and one.category_scores.keys() == other.category_scores.keys()


def test_a_prefix_costs_its_new_tokens_and_the_question() -> None:
    engine = Counting()
    judge = moderator(engine)
    judging = Running(judge, CONTEXT, POLICY)
    texts = prefixes(ANSWER)
    list(judging.judge(texts[:1]))
    engine.tokens = 0
    for text in texts[1:]:
        list(judging.judge([text]))
    frame = judge.ask(Task(CONTEXT.model_copy(update={"text": ANSWER}), POLICY))
    ((prompt, content),) = frame.wordings
    question = len(prompt.question) + len(content.after)
    new = len(TOKENIZER.encode(ANSWER))
    # each prefix: its question and fewer than 20 tokens that are not taken in yet; and every token of the text once
    assert engine.tokens <= len(texts) * (question + 20) + new
    anew = sum(len(r.segments[1]) + len(r.segments[2]) for t in texts for r in judge.ask(Task(CONTEXT.model_copy(
        update={"text": t}), POLICY)).requests())  # fmt: skip
    assert engine.tokens < anew / 2


def test_rules_hold_within_a_running_text() -> None:
    policy = POLICY.model_copy(update={"deny": (Rule(term="silly fool", reason="rude"),)})
    found = running(moderator(), prefixes(ANSWER), 2, policy)
    blocked = [v.decision is Decision.BLOCK for v in found]
    assert blocked == sorted(blocked) and 0 < sum(blocked) < len(blocked)


def test_without_room_it_is_judged_as_usual() -> None:
    engine = Counting()
    judge = moderator(engine)
    texts = prefixes(ANSWER)
    engine.full = True
    assert running(judge, texts, 3) == alone(judge, texts)


def test_an_error_is_an_error_and_the_next_prefix_is_asked_again() -> None:
    thirteen = [0.87, *[0.01] * 13]
    judge = moderator(FakeEngine([EngineError("broken"), thirteen]))
    judging = Running(judge, CONTEXT, POLICY)
    assert [v.decision for v in judging.judge(["One"])] == [Decision.ERROR]
    assert [v.decision for v in judging.judge(["One"])] == [Decision.ALLOW]


def test_prefixes_that_nobody_waits_for_are_not_judged() -> None:
    engine = FakeEngine()
    judge = moderator(engine)
    texts = prefixes(ANSWER * 4)
    coming = Running(judge, CONTEXT, POLICY).judge(texts)
    assert next(coming) == alone(moderator(), texts[:1])[0]
    assert len(engine.seen) < len(texts)


def test_an_answer_that_comes_at_once_is_judged_in_parts() -> None:
    engine = Counting()
    texts = prefixes(ANSWER * 10)
    assert len(running(moderator(engine), texts, 10_000)) == len(texts) > 400
    assert engine.most == 32
