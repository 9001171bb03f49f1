import json
import os
import tracemalloc

import polars as pl
import pytest

from guard.engine.fake import FakeEngine
from guard.errors import EngineError, InvalidFile, UnknownPolicy
from guard.item import Kind
from guard.policy import Category, Policy
from guard.scan import scan as module
from guard.scan.readers import open_reader
from guard.scan.scan import check, scan
from guard.scan.writers import COLUMNS

SUFFIXES = [".csv", ".tsv", ".jsonl", ".parquet"]


def source_of(texts, path):
    ids = [f"id-{i}" for i in range(len(texts))]
    frame = pl.DataFrame({"id": ids, "text": texts}, schema={"id": pl.String, "text": pl.String})
    match path.suffix:
        case ".parquet":
            frame.write_parquet(path)
        case ".jsonl":
            frame.write_ndjson(path)
        case suffix:
            frame.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


def side(out):
    return out.with_name(out.name + ".errors.jsonl")


# ---- order, verdicts, counts


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_row_gets_the_verdict_that_it_gets_alone_in_order(tmp_path, out, moderator, suffix):
    texts = [f"text number {i}, said {'again ' * (i % 7)}" for i in range(600)]
    source = source_of(texts, tmp_path / f"in{suffix}")
    summary = scan(moderator, source, out, id_column="id", policy="forum-comments")
    rows = lines(out)
    assert [row["id"] for row in rows] == [f"id-{i}" for i in range(600)]
    assert all(tuple(row) == COLUMNS for row in rows)
    for i in (0, 1, 255, 256, 257, 511, 512, 599):
        verdict = moderator.judge(texts[i], policy="forum-comments")
        assert rows[i]["score"] == verdict.score
        assert rows[i]["decision"] == verdict.decision.value
        assert rows[i]["category_scores"] == verdict.category_scores
        assert rows[i]["policy_hash"] == verdict.policy_hash
    assert summary.rows == 600
    assert summary.errors == 0
    assert summary.decisions == {d: n for d in summary.decisions if (n := sum(r["decision"] == d for r in rows))}
    assert summary.categories == {c: n for c in summary.categories if (n := sum(c in r["categories"] for r in rows))}
    assert sum(summary.decisions.values()) == 600
    assert summary.rows_per_second == pytest.approx(600 / summary.seconds)
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, out.name])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_scan_repeats_byte_for_byte(tmp_path, moderator, suffix):
    source = source_of([f"text {i % 50}" for i in range(300)] + [""], tmp_path / "in.csv")
    outputs = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for output in outputs:
        scan(moderator, source, output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_file_without_rows_gives_a_file_without_rows(tmp_path, moderator, suffix, output):
    source = tmp_path / f"in{suffix}"
    source_of([], source) if suffix != ".jsonl" else source.touch()
    summary = scan(moderator, source, tmp_path / output, id_column="id")
    assert (summary.rows, summary.decisions, summary.flagged) == (0, {}, ())
    assert summary.rows_per_second == 0
    content = (tmp_path / output).read_bytes()
    assert content == b"" if output == "out.jsonl" else content
    if output == "out.parquet":
        assert pl.read_parquet(tmp_path / output).shape == (0, len(COLUMNS))


def test_exact_duplicates_of_a_block_are_judged_once(tmp_path, out, moderator, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 8)
    texts = ["same", "other", "same", "some", "same ", "same", "other", "last"] * 2
    scan(moderator, source_of(texts, tmp_path / "in.jsonl"), out)
    assert len(moderator.engine.seen) == 2 * len(set(texts))
    scores = [row["score"] for row in lines(out)]
    assert scores[0] == scores[2] == scores[5] == scores[8]
    assert len(set(scores)) == len(set(texts))


def test_blocks_are_bounded_by_rows_and_by_characters(tmp_path, out, moderator, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 10)
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", 40)
    done = []
    texts = ["x" * 2] * 25 + ["y" * 45] * 2 + ["z"]
    scan(moderator, source_of(texts, tmp_path / "in.csv"), out, on_progress=lambda *now: done.append(now))
    assert [rows for rows, _ in done] == [10, 20, 26, 27, 28]
    assert done[-1] == (28, 1.0)
    assert [share for _, share in done] == sorted(share for _, share in done)


def test_policy_categories_and_kind_are_those_asked_for(tmp_path, out, moderator):
    source = source_of(["some text"], tmp_path / "in.csv")
    scan(moderator, source, out, policy="moderation-13", categories=["hate", "violence"], kind="answer")
    expected = moderator.judge("some text", policy="moderation-13", categories=["hate", "violence"], kind=Kind.ANSWER)
    assert lines(out)[0]["score"] == expected.score
    assert set(lines(out)[0]["category_scores"]) == {"hate", "violence"}
    own = Policy(id="own", version=1, categories=(Category(id="odd", description="an odd thing to say"),))
    scan(moderator, source, out, policy=own)
    assert (lines(out)[0]["policy"], lines(out)[0]["policy_hash"]) == ("own", own.hash)


def test_the_flagged_rows_with_the_highest_scores_are_kept(tmp_path, out, scripted, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 3)
    moderator = scripted([0.4, 0.9, 0.1, 0.2, 0.2, 0.3, EngineError("broken")])
    texts = [f"{i}" * 300 for i in range(7)]
    summary = scan(moderator, source_of(texts, tmp_path / "in.csv"), out, id_column="id")
    assert [(row.id, round(row.score, 6)) for row in summary.flagged] == [("id-2", 0.9), ("id-3", 0.8), ("id-4", 0.8)]
    assert summary.flagged[0].text == "2" * 200
    assert summary.flagged[0].categories == ("illegal",)
    assert summary.decisions == {"flag": 5, "allow": 1, "error": 1}


# ---- rows without a verdict


def test_rows_without_a_verdict_keep_their_place_and_stand_in_the_side_file(tmp_path, out, moderator):
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"text": "a", "id": 7}\n{"text": \n{"text": " \\n", "id": 9}\n{"id": 10}\n{"text": "b", "id": 11}\n'
    )
    summary = scan(moderator, source, out, id_column="id")
    rows = lines(out)
    assert [row["id"] for row in rows] == ["7", "", "9", "10", "11"]
    assert [row["decision"] == "error" for row in rows] == [False, True, True, True, False]
    assert [row["error"] for row in rows] == [
        None,
        "invalid_item: Row 2 cannot be judged: it is not valid JSON: Expecting value at character 10.",
        "invalid_item: The text is empty.",
        "invalid_item: Row 4 cannot be judged: 'text' is missing.",
        None,
    ]
    assert rows[1] | {"id": "7", "decision": rows[0]["decision"]} == rows[0] | {
        "score": None, "categories": [], "category_scores": {}, "passages": 0, "reason": "error",
        "error": rows[1]["error"],
    }  # fmt: skip
    assert summary.errors == 3
    assert summary.errors_file == side(out)
    assert lines(side(out)) == [
        {"id": "", "row": 2, "code": "invalid_item", "message": rows[1]["error"][14:], "text": '{"text": '},
        {"id": "9", "row": 3, "code": "invalid_item", "message": "The text is empty.", "text": " \n"},
        {"id": "10", "row": 4, "code": "invalid_item", "message": rows[3]["error"][14:], "text": '{"id": 10}'},
    ]


def test_ragged_rows_of_a_csv_stand_in_the_side_file(tmp_path, out, moderator):
    (tmp_path / "in.csv").write_text("id,text\n1,a\n2,b,c\n3,d\n")
    scan(moderator, tmp_path / "in.csv", out, id_column="id")
    assert [row["decision"] == "error" for row in lines(out)] == [False, True, False]
    assert [(row["row"], row["text"]) for row in lines(side(out))] == [(2, "2,b,c")]


def test_an_engine_error_is_that_rows_alone(tmp_path, out, scripted):
    moderator = scripted([0.9, EngineError("no luck", hint="Again."), 0.9])
    summary = scan(moderator, source_of(["a", "b", "c"], tmp_path / "in.csv"), out)
    assert [row["decision"] for row in lines(out)] == ["allow", "error", "allow"]
    assert lines(out)[1]["error"] == "engine_error: no luck"
    assert lines(side(out)) == [{"id": "2", "row": 2, "code": "engine_error", "message": "no luck", "text": "b"}]
    assert summary.errors == 1


class _Fragile(FakeEngine):
    """Raises for every batch that holds its `poison`, as an engine that runs out of memory would."""

    poison: tuple[int, ...] = ()

    def score(self, requests):
        if any(self.poison == request.segments[1] for request in requests):
            raise MemoryError("too much")
        return super().score(requests)


def test_when_a_block_raises_each_row_is_tried_alone(tmp_path, out, moderator):
    texts = [f"text {i}" for i in range(20)]
    engine = _Fragile()
    moderator.judge(texts[13])
    engine.poison = moderator.engine.seen[-1].segments[1]
    expected = [moderator.judge(text).score for text in texts]
    moderator.engine = engine
    scan(moderator, source_of(texts, tmp_path / "in.csv"), out)
    assert [row["score"] for row in lines(out)] == [None if i == 13 else score for i, score in enumerate(expected)]
    assert lines(out)[13]["error"] == "engine_error: Judging failed: MemoryError."
    assert [(row["row"], row["text"]) for row in lines(side(out))] == [(14, "text 13")]


def test_a_side_file_of_an_earlier_run_goes(tmp_path, out, moderator):
    side(out).write_text("old")
    summary = scan(moderator, source_of(["a"], tmp_path / "in.csv"), out)
    assert not side(out).exists()
    assert summary.errors == 0


def test_invalid_utf8_nul_and_lone_surrogates_are_judged(tmp_path, out, moderator):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a\xff\x00b"}\n{"text": "\\ud800"}\n')
    summary = scan(moderator, tmp_path / "in.jsonl", out)
    assert summary.errors == 0
    assert lines(out)[0]["score"] == moderator.judge("a\ufffd\0b").score


# ---- what cannot be scanned


def test_nothing_is_written_when_the_scan_cannot_begin(tmp_path, out, moderator):
    source = source_of(["a"], tmp_path / "in.csv")
    for error, asked in [
        (InvalidFile, {"text_column": "nope"}),
        (InvalidFile, {"id_column": "nope"}),
        (UnknownPolicy, {"policy": "nope"}),
        (UnknownPolicy, {"categories": ["nope"]}),
        (UnknownPolicy, {"policy": "forum-comments", "kind": "prompt"}),
    ]:
        with pytest.raises(error):
            scan(moderator, source, out, **asked)
    assert os.listdir(tmp_path) == ["in.csv"]
    assert moderator.engine.seen == []


@pytest.mark.parametrize("output", ["in.jsonl", "./sub/../in.jsonl", "link.jsonl", "hard.jsonl"])
def test_the_input_is_never_overwritten(tmp_path, moderator, output):
    source = source_of(["a"], tmp_path / "in.jsonl")
    before = source.read_bytes()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    with pytest.raises(InvalidFile, match="overwrite its own input"):
        scan(moderator, source, tmp_path / output)
    assert source.read_bytes() == before


def test_the_side_file_of_the_output_is_no_input(tmp_path, out):
    side(out).write_text('{"text": "a"}\n')
    with pytest.raises(InvalidFile, match="overwrite its own input"):
        check(side(out), out, "text")


def test_an_interrupted_scan_leaves_the_earlier_output(tmp_path, out, moderator):
    out.write_text("earlier")

    def interrupt(rows, share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(moderator, source_of(["a", ""], tmp_path / "in.csv"), out, on_progress=interrupt)
    assert out.read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.jsonl"]


# ---- size


def test_memory_does_not_grow_with_the_file(tmp_path, out, moderator):
    """5,000 rows of 2,000 characters: 10 MB of input, of which only a block is held."""
    texts = [f"{i % 3} {'word ' * 400}" for i in range(5000)]
    source = source_of(texts, tmp_path / "in.jsonl")
    assert source.stat().st_size > 10_000_000
    scan(moderator, source_of(texts[:3], tmp_path / "few.jsonl"), out)  # what is kept after the first time
    tracemalloc.start()
    try:
        summary = scan(moderator, source, out, on_progress=lambda *_: moderator.engine.seen.clear())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.rows == len(lines(out)) == 5000
    assert peak < 3_000_000


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_reading_holds_few_rows(tmp_path, suffix):
    source = source_of(["word " * 400] * 5000, tmp_path / f"in{suffix}")
    rows = iter(open_reader(source, "text"))
    next(rows)  # imports polars
    tracemalloc.start()
    try:
        assert sum(len(row.text) for row in rows) == 4999 * 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (1_000_000 if suffix == ".csv" else 6_000_000)
