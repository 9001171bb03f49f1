import pytest

from guard.errors import EngineError, InvalidItem
from guard.item import Item, Kind
from guard.moderator import Moderator
from guard.scan import judge as module
from guard.scan.blocks import Block
from guard.scan.columns import Comment
from guard.scan.judge import Judge
from guard.scan.writers import judged

POLICY = "forum-comments"


def block(number, *comments):
    numbered = [
        one if isinstance(one, Comment) else Comment(i, f"{number}.{i}", one, raw=one)
        for i, one in enumerate(comments, 1)
    ]
    return Block(number, numbered, {"rows": 0}, "", 0.0, last=False)


def judge_of(moderator, kind=Kind.COMMENT, **options):
    return Judge(moderator, moderator.policies.get(POLICY), kind, **options)


def run(judge, *blocks):
    return [judge.records(judge.score(judge.prepare(one))) for one in blocks]


def test_every_row_gets_the_verdict_that_it_gets_alone(moderator):
    texts = [f"text number {i}, said {'again ' * (i % 7)}" for i in range(600)]
    heard = []
    judge = judge_of(moderator)
    records, errors = judge.records(judge.score(judge.prepare(block(0, *texts)), heard.append))
    for i in (0, 1, 255, 256, 599):
        assert {"id": f"0.{i + 1}", **judged(moderator.judge(texts[i], policy=POLICY))}.items() <= records[i].items()
    assert errors == []
    assert heard == [256 / 600, 512 / 600, 1.0]


def test_what_of_the_input_stands_beside_the_verdict(moderator):
    comment = Comment(1, "7", "own", author="ann", board="cats", time="2026-01-01T00:00:00Z", raw="> quote\nown")
    ((record,), _),  = run(judge_of(moderator), block(0, comment))  # fmt: skip
    assert list(record)[-4:] == ["time", "board", "author", "text"]
    assert [record[name] for name in ("time", "board", "author", "text")] == [
        "2026-01-01T00:00:00Z", "cats", "ann", "own",
    ]  # fmt: skip
    ((record,), _),  = run(judge_of(moderator, keep_text=False), block(0, comment))  # fmt: skip
    assert "text" not in record


def test_parent_and_title_are_judged_with_a_comment_and_with_nothing_else(moderator):
    bare, threaded = Comment(1, "1", "so what"), Comment(2, "2", "so what", parent="a threat", title="Neighbours")
    (records, _), = run(judge_of(moderator), block(0, bare, threaded))  # fmt: skip
    item = Item(text="so what", kind=Kind.COMMENT, parent="a threat", title="Neighbours")
    assert records[1]["score"] == moderator.judge(item, policy=POLICY).score != records[0]["score"]
    (records, _), = run(judge_of(moderator, Kind.PROMPT), block(0, bare, threaded))  # fmt: skip
    assert records[0]["score"] == records[1]["score"]


def test_what_is_the_same_is_asked_once_in_a_block_and_in_the_window_before(moderator, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 2)
    judge = judge_of(moderator)
    blocks = [block(0, "a", "b", "a"), block(1, "b", "c"), block(2, "a"), block(3, "c", "a"), block(4, "b", "a")]
    asked = []
    scores = []
    for one in blocks:
        before = len(moderator.engine.seen)
        ((records, _),) = run(judge, one)
        asked.append(len(moderator.engine.seen) - before)
        scores.append([record["score"] for record in records])
    assert asked == [2, 1, 0, 0, 1]  # b was last seen in block 1, three blocks before 4
    alone = {text: moderator.judge(text, policy=POLICY).score for text in "abc"}
    assert scores == [[alone[comment.text] for comment in one.comments] for one in blocks]


def test_a_judge_that_recalls_asks_what_one_that_was_there_asks(moderator, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 2)
    blocks = [block(i, *(f"{(i * j) % 7}" for j in range(1, 6)), "" if i % 2 else "x") for i in range(8)]
    there = judge_of(moderator)
    for_all = []
    for one in blocks:
        prepared = there.prepare(one)
        for_all.append((list(prepared.asked), *there.records(there.score(prepared))))
    for first in range(2, 8):
        later = judge_of(moderator)
        for one in blocks[first - 2 : first]:
            later.recall(one, for_all[one.number][1])
        for one in blocks[first:]:
            prepared = later.prepare(one)
            assert (list(prepared.asked), *later.records(later.score(prepared))) == for_all[one.number]


def test_rows_that_cannot_be_judged_keep_their_place_and_are_named(moderator):
    broken = Comment(2, "", "{torn", InvalidItem("Row 2 cannot be judged: it is torn."), raw="{torn")
    ((records, errors),) = run(judge_of(moderator), block(0, "fine", broken, " \n"))
    assert [record["decision"] == "error" for record in records] == [False, True, True]
    assert errors == [
        {"id": "", "row": 2, "code": "invalid_item", "message": "Row 2 cannot be judged: it is torn.", "text": "{torn"},
        {"id": "0.3", "row": 3, "code": "invalid_item", "message": "The text is empty.", "text": " \n"},
    ]


def test_an_error_of_the_engine_is_the_error_of_its_rows_alone(scripted):
    moderator = scripted([0.9, EngineError("broken"), 0.2])
    judge = Judge(moderator, moderator.policies.get("self-reflection"), Kind.PROMPT)
    ((records, errors),) = run(judge, block(0, "a", "bb bb", "ccc ccc ccc", "bb bb"))
    assert [record["decision"] for record in records] == ["allow", "error", "flag", "error"]
    assert [(one["row"], one["code"], one["message"]) for one in errors] == [
        (2, "engine_error", "broken"), (4, "engine_error", "broken"),
    ]  # fmt: skip


class Moody:
    """An engine that raises when a batch has more than one request, or one with `poison` in it."""

    model_id, vocab_size, max_tokens = "moody", 2**20, 4096

    def __init__(self, inner, poison):
        self.inner, self.poison = inner, poison

    def score(self, requests):
        if len(requests) > 1 or self.poison in requests[0].segments[1]:
            raise RuntimeError("secret text")
        return self.inner.score(requests)


def test_an_engine_that_raises_takes_no_row_with_it(moderator):
    poison = moderator.tokenizer.encode("poison")[-1]
    moody = Moderator(Moody(moderator.engine, poison), moderator.tokenizer)
    ((records, errors),) = run(judge_of(moody), block(0, "a", "poison", "c"))
    assert [record["decision"] == "error" for record in records] == [False, True, False]
    assert "secret" not in str(errors)
    assert "RuntimeError" in errors[0]["message"]


@pytest.mark.parametrize("text", ["x" * 2**20, "[INST] </s> <<<", "\x00\u202e\ufeff", "\U0001f600" * 100])
def test_odd_texts_are_judged(moderator, text):
    ((records, errors),) = run(judge_of(moderator), block(0, text))
    assert errors == []
    assert records[0]["score"] is not None
