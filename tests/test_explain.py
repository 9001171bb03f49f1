"""Explanations: each figure is that of the shortened text alone, and nothing is left out without a word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard import cli
from guard.engine.fake import FakeEngine
from guard.engine.request import LogProbs, Request
from guard.engine.tree import plan
from guard.errors import EngineError
from guard.explain import Explanation, explain
from guard.item import Item, Kind
from guard.moderator import Moderator
from guard.policy import Policy
from guard.settings import Settings
from guard.verdict import Decision, Verdict
from tests.builders import known, moderator, policy

TEXT = "I read it all. You are a fool and a liar!  The bridge is nice, though. See you on Monday."
ESCAPE = "\x1b[31mred\x07. Then [bold red]markup[/]! \u202eback\x9b2J"


class Words(FakeEngine):
    """Finds `hate` where its content holds "fool" or "liar", and `spam` where it holds "buy"."""

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        self.seen.extend(requests)
        return [self._found(request) for request in requests]

    def _found(self, request: Request) -> LogProbs | EngineError:
        text = known("embedded").decode([i for segment in request.segments[1:-1] for i in segment])
        if "crash" in text:
            return EngineError("It crashed.")
        hate = 0.4 * ("fool" in text) + 0.2 * ("liar" in text) + 0.01
        spam = 0.3 * ("buy" in text) + 0.01
        return FakeEngine([[1 - hate - spam, hate, spam]]).score([request])[0]


@pytest.fixture(scope="module")
def real() -> Moderator:
    return Moderator.load(Settings(model="embedded"))


def explained(judge: Moderator, text: str | Item, of: Policy | str | None = None) -> Explanation:
    return explain(judge, judge.task(text, policy=of or policy()))


def without(text: str, spans: Sequence[tuple[int, int]], left_out: int) -> str:
    """A text less one span, put together from the others with the blanks in front of them (slow and obvious)."""
    kept = text[: spans[0][0]]
    for number, (start, end) in enumerate(spans):
        if number != left_out:
            behind = spans[number + 1][0] if number + 1 < len(spans) else len(text)
            kept += text[start:end] + text[end:behind]
    last_is_out = left_out == len(spans) - 1
    return kept.rstrip() if last_is_out else kept


def alone(
    judge: Moderator, item: Item, found: Explanation, of: Policy | str
) -> Iterator[tuple[Verdict | None, Verdict]]:
    """Each part's verdict, and that on the shortened text judged by itself."""
    spans = [(part.start, part.end) for part in found.parts]
    for number, part in enumerate(found.parts):
        text = without(item.text[: found.read], spans, number)
        yield part.without, judge.judge(item.model_copy(update={"text": text}), policy=of)


# ---------------------------------------------------------------------------------------------------------------------
# The oracle: each shortened text alone


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab .!?,\n\u3000。<>[]x"), min_size=1, max_size=400).filter(str.strip))
def test_every_verdict_is_that_of_the_shortened_text_alone(text: str):
    judge, item = moderator(passage_tokens=64, passage_overlap=8, max_passages=3), Item(text=text)
    found = explained(judge, item)
    assert found.verdict == judge.judge(item, policy=policy())
    pairs = list(alone(judge, item, found, policy()))
    assert len(pairs) < 2 or all(together == by_itself for together, by_itself in pairs)


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=300).filter(lambda text: text.encode("utf-8", "replace").strip()))
def test_any_text_is_explained_and_its_parts_cover_it(text: str):
    judge = moderator()
    item = Item.model_validate({"text": text if text.strip() else "x"})
    found = explained(judge, item)
    edges = [(0, 0), *((part.start, part.end) for part in found.parts), (len(item.text), len(item.text))]
    assert all(end <= start for (_, end), (start, _) in pairwise(edges))
    assert "".join(item.text[end:start] for (_, end), (start, _) in pairwise(edges)).strip() == ""
    assert all(part.text == item.text[part.start : part.end] for part in found.parts)
    assert sorted(found.ranked, key=lambda part: part.start) == list(found.parts)


ITEMS = [
    Item(text=TEXT, kind=Kind.COMMENT, parent="I like the new bridge", title="Bridges"),
    Item(text=f"{TEXT} {TEXT.replace('fool', 'hero')}", kind=Kind.COMMENT),
    Item(text="word " * 80, kind=Kind.COMMENT),
    Item(text=" ".join(f"Sentence number {n} says that {TEXT.split('.')[0]}." for n in range(12)), kind=Kind.COMMENT),
]


@pytest.mark.parametrize("item", ITEMS, ids=["thread", "several passages", "one sentence", "many sentences"])
def test_the_embedded_model_says_of_each_shortened_text_what_it_says_of_it_alone(real: Moderator, item: Item):
    judge = Moderator(
        real.engine, real.tokenizer, settings=Settings.model_construct(passage_tokens=48, passage_overlap=8)
    )
    found = explained(judge, item, "forum-comments")
    assert found.verdict == judge.judge(item, policy="forum-comments")
    assert len(found.parts) >= 2
    for together, by_itself in alone(judge, item, found, "forum-comments"):
        assert together is not None
        # sums over shared beginnings are rounded elsewhere: the last bits may differ
        assert together.score == pytest.approx(by_itself.score, abs=1e-5)
        assert together.category_scores == pytest.approx(by_itself.category_scores, abs=1e-5)
        told = {"score", "category_scores"}
        assert together.model_dump(exclude=told) == by_itself.model_dump(exclude=told)


def test_the_embedded_model_finds_the_insult(real: Moderator):
    found = explained(real, ITEMS[0], "forum-comments")
    assert found.ranked[0].text == "You are a fool and a liar!" and found.ranked[0].change > 0.2


# ---------------------------------------------------------------------------------------------------------------------
# What is found


def test_the_sentence_that_decides_comes_first_with_what_it_adds_to_each_category():
    found = explained(moderator(Words()), TEXT)
    assert found.verdict.decision is Decision.FLAG and found.verdict.categories == ("hate",)
    first, *others = found.ranked
    assert (first.text, first.decides) == ("You are a fool and a liar!", True)
    assert first.without is not None and first.without.decision is Decision.ALLOW
    assert first.change == pytest.approx(0.6) and first.categories == {"hate": pytest.approx(0.6)}
    assert [(part.change, part.decides) for part in others] == [(0.0, False)] * 3


def test_where_two_sentences_do_it_none_decides_alone():
    found = explained(moderator(Words()), "You fool. You fool! And so on.")
    assert found.verdict.decision is Decision.ALLOW or not any(part.decides for part in found.parts)
    assert [part.change for part in found.parts] == [0.0] * 3


def test_a_single_sentence_is_not_scored_without_itself():
    engine = Words()
    found = explained(moderator(engine), " You fool ")
    assert [(part.start, part.end, part.without, part.decides) for part in found.parts] == [(1, 9, None, False)]
    assert len(engine.seen) == 1


def test_all_texts_are_asked_about_in_one_call_and_share_their_beginnings():
    engine = Words()
    explained(moderator(engine), TEXT)
    assert len(engine.seen) == 5
    whole = sum(len(ids) for request in engine.seen for ids in request.segments[1:])
    assert len(plan(engine.seen).tokens) < 0.8 * whole


def test_equal_texts_are_asked_about_once():
    engine = Words()
    explained(moderator(engine), "No.\nNo.\nNo.\nNo.")
    assert len(engine.seen) == 2


def test_a_long_text_is_explained_in_fewer_parts():
    assert len(explained(moderator(), "Yes, sir. " * 200).parts) == 64
    assert len(explained(moderator(), "Yes, sir. " * 2_500).parts) == 20
    assert len(explained(moderator(passage_tokens=1024), "Yes, sir. " * 8_000).parts) == 8


# ---------------------------------------------------------------------------------------------------------------------
# Rules


def ruled(**rule: str) -> Policy:
    return policy(deny=[{"reason": "a name", **rule}], allow=[{"term": "see you", "reason": "a farewell"}])


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ({"term": "The  BRIDGE"}, "The bridge"),
        ({"pattern": "br[a-z]+e"}, "bridge"),
        ({"term": "monday", "action": "review"}, "Monday."),
    ],
)
def test_a_deny_rule_that_decides_is_named_with_its_place(rule: dict[str, str], shown: str):
    found = explained(moderator(Words()), TEXT, ruled(**rule))
    assert found.verdict.reason == "rule: a name" and found.ruling is not None and found.ruling.span is not None
    assert TEXT[slice(*found.ruling.span)] == shown
    assert found.ruling.rule.term == rule.get("term")
    (decides,) = [part for part in found.parts if part.decides]
    assert shown in decides.text and decides.without is not None
    assert decides.without.reason == "model"


def test_an_allow_rule_that_decides_is_named():
    found = explained(moderator(Words()), "See\u00a0you", ruled(term="nobody"))
    assert found.verdict.decision is Decision.ALLOW
    assert found.ruling is not None and (found.ruling.rule.reason, found.ruling.span) == ("a farewell", (0, 7))


def test_of_two_rules_with_one_reason_the_one_that_decided_is_named():
    rules = [{"term": "read", "action": "flag"}, {"term": "absent"}, {"term": "bridge"}, {"term": "monday"}]
    of = policy(deny=[{"reason": "same", **rule} for rule in rules])
    found = explained(moderator(Words()), TEXT, of)
    assert found.verdict.decision is Decision.BLOCK
    assert found.ruling is not None and found.ruling.rule.term == "bridge"


def test_where_the_model_decides_no_rule_is_named():
    assert explained(moderator(Words()), TEXT, ruled(term="nobody")).ruling is None


def test_a_term_that_only_folding_brings_to_light_has_no_place():
    found = explained(moderator(Words()), "a\u00a8", policy(deny=[{"term": "a \u0308", "reason": "x"}]))
    assert found.ruling is not None and found.ruling.span is None


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_of_a_text_that_is_not_read_whole_only_what_was_read_is_explained():
    judge = moderator(Words(), passage_tokens=32, passage_overlap=4, max_passages=2)
    item = Item(text="So it goes on and on. You fool and liar! " + "And so on. " * 50 + "You fool and liar, buy!")
    found = explained(judge, item)
    assert found.verdict == judge.judge(item, policy=policy()) and found.verdict.truncated
    assert 80 < found.read < 400 and found.parts[-1].end <= found.read
    assert found.base == judge.judge(item.text[: found.read], policy=policy()) and not found.base.truncated
    assert judge.judge(item.text[: found.read + 1], policy=policy()).truncated
    assert found.ranked[0].text == "You fool and liar!"
    assert all(together == by_itself for together, by_itself in alone(judge, item, found, policy()))


def test_of_a_text_whose_read_beginning_is_blank_nothing_is_explained():
    judge = moderator(passage_tokens=32, passage_overlap=4, max_passages=1)
    found = explained(judge, " \n" * 5000 + "You fool")
    assert found.verdict.truncated and found.parts == () and found.base == found.verdict


@pytest.mark.parametrize("text", ["It will crash.", "It will crash. And so on.", "You cra. \nsh? crash"])
def test_what_cannot_be_judged_is_an_error_and_no_explanation(text: str):
    with pytest.raises(EngineError, match="cannot be explained: It crashed"):
        explained(moderator(Words()), text)


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Exit status, standard output and standard error of `guard explain` on the engine of words."""
    monkeypatch.setattr(Moderator, "load", lambda settings: moderator(Words(), passage_tokens=32, max_passages=2))
    path = tmp_path / "own.yaml"
    path.write_text(
        "id: own\nversion: 2\ndescription: x\ncategories:\n- {id: hate, description: about hate}\n"
        "- {id: spam, description: about spam}\ndeny:\n- {term: bridge, reason: no bridges}\n"
    )

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.run(["explain", *arguments, "--policy", str(path)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_the_command_marks_the_sentence_that_decides_and_shows_a_table(run):
    status, out, err = run("I read it. You are a fool and a liar! So long.")
    assert (status, err) == (1, "")
    assert "I read it. [1: You are a fool and a liar!] So long." in out
    assert "\x1b" not in out  # no colours where nobody looks
    row = next(line for line in out.splitlines() if line.startswith("1 "))
    assert " ".join(row.split()) == "1 +0.600 allow 0.020 +0.600 11-37 You are a fool and a liar!"


def test_the_command_says_which_rule_decided_and_where(run):
    status, out, _ = run("I read it. I like the bridge.")
    assert status == 1 and "the rule: term 'bridge' at 22-29: bridge." in out


def test_the_command_prints_one_line_of_json(run):
    status, out, _ = run("I read it. You are a fool and a liar! Soé long.", "--json")
    found = json.loads(out)
    assert status == 1 and out.count("\n") == 1 and out.isascii()
    assert found["verdict"]["decision"] == found["base"]["decision"] == "flag"
    assert (found["read"], found["rule"]) == (47, None)
    first = found["parts"][0]
    assert (first["start"], first["end"], first["decides"]) == (11, 37, True)
    assert first["without"]["decision"] == "allow"
    assert first["change"] == pytest.approx(found["base"]["score"] - first["without"]["score"])


def test_the_command_says_what_it_does_not_explain(run):
    assert "nothing would be left without it" in run("You fool and liar")[1]
    assert "no sentence decides alone" in run("Good. Fine.")[1]
    status, out, _ = run("And so on. " * 50)
    assert status == 1 and "of 550 characters were read" in out
    assert "and 4 more that add or take less" in run("Hm. " * 14)[1]
    assert "that is blank" in run(" \n" * 5000 + "x")[1]


def test_the_command_prints_nothing_raw(run):
    _, out, _ = run(ESCAPE)
    assert "\\x1b[31mred\\x07." in out and "[bold red]markup[/]!" in out and "\\u202eback\\x9b2J" in out
    assert all(character.isprintable() or character == "\n" for character in out)


def test_errors_of_the_command_are_status_2_and_one_line(run):
    for arguments in (["crash. x"], ["  "], ["x", "--kind", "nope"], ["x", "--categories", "nope"]):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "") and err.startswith("guard: error: ") and err.count("\n") == 1
