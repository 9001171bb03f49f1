import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import polars as pl
import pytest

from guard.engine.fake import FakeEngine
from guard.errors import EngineError, InvalidFile, InvalidPolicy
from guard.item import Kind
from guard.moderator import Moderator
from guard.policy import FittedCalibration
from guard.scan import blocks as blocks_module
from guard.scan import judge as judge_module
from guard.scan.columns import Columns
from guard.scan.job import Job
from guard.scan.scan import scan
from guard.scan.writers import BESIDE, COLUMNS

SUFFIXES = [".csv", ".tsv", ".jsonl", ".parquet"]


@pytest.fixture
def small(monkeypatch):
    """Blocks of 20 rows, and a window of 2 blocks."""
    monkeypatch.setattr(blocks_module, "ROWS", 20)
    for module in (blocks_module, judge_module):
        monkeypatch.setattr(module, "WINDOW", 2)


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


def job_of(moderator, source, out, policy="self-reflection", kind=None, **more):
    chosen = moderator.policies.get(policy)
    kind = kind or chosen.default_kind
    inputs = (str(source),) if isinstance(source, (str, Path)) else tuple(map(str, source))
    return Job(inputs, str(out), chosen.narrowed(None, kind), kind, **({"columns": Columns(id="id")} | more))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def side(out):
    return out.with_name(out.name + ".errors.jsonl")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


def asked(moderator, action):
    """How many requests the engine got meanwhile."""
    before = len(moderator.engine.seen)
    action()
    return len(moderator.engine.seen) - before


# ---- order, verdicts, counts


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_row_gets_the_verdict_that_it_gets_alone_in_order(tmp_path, out, moderator, suffix):
    texts = [f"text number {i}, said {'again ' * (i % 7)}" for i in range(1200)]
    source = source_of(texts, tmp_path / f"in{suffix}")
    summary = scan(moderator, job_of(moderator, source, out, "forum-comments"))
    rows = lines(out)
    assert [row["id"] for row in rows] == [f"id-{i}" for i in range(1200)]
    assert all(tuple(row) == (*COLUMNS, *BESIDE) for row in rows)
    for i in (0, 1, 255, 256, 999, 1000, 1199):
        verdict = moderator.judge(texts[i], policy="forum-comments")
        assert rows[i]["score"] == verdict.score
        assert rows[i]["decision"] == verdict.decision.value
        assert rows[i]["category_scores"] == verdict.category_scores
        assert rows[i]["policy_hash"] == verdict.policy_hash
        assert rows[i]["text"] == texts[i]
    assert (summary.rows, summary.judged, summary.errors) == (1200, 1200, 0)
    assert summary.decisions == {d: n for d in summary.decisions if (n := sum(r["decision"] == d for r in rows))}
    assert summary.categories == {c: n for c in summary.categories if (n := sum(c in r["categories"] for r in rows))}
    assert sum(summary.decisions.values()) == 1200
    assert summary.rows_per_second == pytest.approx(1200 / summary.seconds)
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, out.name, out.name + ".ledger"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_scan_repeats_byte_for_byte(tmp_path, moderator, suffix):
    source = source_of([f"text {i % 50}" for i in range(300)] + [""], tmp_path / "in.csv")
    outputs = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for output in outputs:
        scan(moderator, job_of(moderator, source, output))
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_file_without_rows_gives_a_file_without_rows(tmp_path, moderator, suffix, output):
    source = tmp_path / f"in{suffix}"
    source_of([], source) if suffix != ".jsonl" else source.touch()
    for _ in range(2):
        summary = scan(moderator, job_of(moderator, source, tmp_path / output))
        assert (summary.rows, summary.decisions, summary.flagged, summary.judged) == (0, {}, (), 0)
    if output == "out.parquet":
        assert pl.read_parquet(tmp_path / output).shape == (0, len(COLUMNS) + len(BESIDE))


def test_several_inputs_are_one(tmp_path, out, moderator, small):
    sources = [
        source_of([f"{name} {i}" for i in range(rows)], tmp_path / f"{name}.csv")
        for name, rows in [("a", 15), ("b", 0), ("c", 30)]
    ]
    scan(moderator, job_of(moderator, sources, out))
    assert [row["text"] for row in lines(out)] == [f"a {i}" for i in range(15)] + [f"c {i}" for i in range(30)]


def test_kind_and_policy_are_those_asked_for(tmp_path, out, moderator):
    source = source_of(["some text"], tmp_path / "in.csv")
    scan(moderator, job_of(moderator, source, out, "moderation-13", Kind.ANSWER))
    expected = moderator.judge("some text", policy="moderation-13", kind=Kind.ANSWER)
    assert lines(out)[0]["score"] == expected.score


def test_the_flagged_rows_with_the_highest_scores_are_shown(tmp_path, out, scripted):
    moderator = scripted([0.4, 0.9, 0.1, 0.2, 0.2, 0.3, EngineError("broken")])
    texts = [f"{i}" * (300 + i) for i in range(7)]
    job = job_of(moderator, source_of(texts, tmp_path / "in.csv"), out)
    summary = scan(moderator, job, show=3)
    assert [(row.id, round(row.score, 6)) for row in summary.flagged] == [("id-2", 0.9), ("id-3", 0.8), ("id-4", 0.8)]
    assert summary.flagged[0].text == "2" * 200
    assert summary.flagged[0].categories == ("illegal",)
    assert summary.decisions == {"flag": 5, "allow": 1, "error": 1}
    assert scan(moderator, job).flagged == ()


def test_progress_tells_rows_share_and_what_was_found(tmp_path, out, moderator, small):
    source = source_of([f"text {i}" for i in range(75)] + [""], tmp_path / "in.csv")
    told = []
    summary = scan(moderator, job_of(moderator, source, out), on_progress=told.append)
    assert (told[0].rows, told[0].share) == (0, 0.0)
    assert [now.rows for now in told] == sorted(now.rows for now in told)
    assert [now.share for now in told] == sorted(now.share for now in told)
    assert told[-1] == (76, 1.0, 76 - summary.decisions["allow"] - 1, 1)


# ---- rows without a verdict


def test_rows_without_a_verdict_keep_their_place_and_stand_in_the_side_file(tmp_path, out, moderator):
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"text": "a", "id": 7}\n{"text": \n{"text": " \\n", "id": 9}\n{"id": 10}\n{"text": "b", "id": 11}\n'
    )
    summary = scan(moderator, job_of(moderator, source, out))
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
    assert (summary.errors, summary.errors_file) == (3, str(side(out)))
    assert lines(side(out)) == [
        {"id": "", "row": 2, "code": "invalid_item", "message": rows[1]["error"][14:], "text": '{"text": '},
        {"id": "9", "row": 3, "code": "invalid_item", "message": "The text is empty.", "text": " \n"},
        {"id": "10", "row": 4, "code": "invalid_item", "message": rows[3]["error"][14:], "text": '{"id": 10}'},
    ]


def test_errors_are_asked_about_again_when_that_is_wanted(tmp_path, out, scripted, moderator, small):
    texts = [f"text {i:02}" for i in range(50)] + [""]
    source = source_of(texts, tmp_path / "in.csv")
    undisturbed = tmp_path / "undisturbed.jsonl"
    scan(moderator, job_of(moderator, source, undisturbed))

    class Faulty(FakeEngine):
        broken = True

        def score(self, requests):
            answers = super().score(requests)
            odd = [self.broken and sum(request.segments[1]) % 5 == 0 for request in requests]
            return [EngineError("no luck") if bad else one for bad, one in zip(odd, answers, strict=True)]

    faulty = Moderator(Faulty(), moderator.tokenizer)
    job = job_of(faulty, source, out)
    first = scan(faulty, job)
    assert first.errors > 3
    faulty.engine.broken = False
    assert asked(faulty, lambda: scan(faulty, job)) == 0  # a finished scan is left as it is
    assert scan(faulty, job).decisions == first.decisions
    again = scan(faulty, job, retry_errors=True)
    assert (again.judged, again.errors, again.rows) == (first.errors, 1, 51)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert [one["row"] for one in lines(side(out))] == [51]


# ---- going on


def test_a_finished_scan_run_again_does_nothing(tmp_path, out, moderator, small):
    source = source_of([f"text {i}" for i in range(70)], tmp_path / "in.csv")
    job = job_of(moderator, source, out)
    first = scan(moderator, job, show=5)
    before = out.stat()
    again = scan(moderator, job, show=5)
    assert (again.judged, again.rows, again.decisions, again.flagged) == (0, 70, first.decisions, first.flagged)
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    out.unlink()
    content = scan(moderator, job) and out.read_bytes()
    assert content == b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in lines(out))
    assert len(lines(out)) == 70


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [70, 80])  # the last block is full, or not
def test_an_input_that_grew_is_continued(tmp_path, out, moderator, small, suffix, rows):
    texts = [f"text {i % 31}" for i in range(137)]
    source = source_of(texts[:rows], tmp_path / f"in{suffix}")
    job = job_of(moderator, source, out)
    scan(moderator, job)
    source_of(texts, source)
    grown = scan(moderator, job)
    assert (grown.rows, grown.judged) == (137, 137 - (60 if rows == 70 else 60))
    whole = tmp_path / "whole.jsonl"
    scan(moderator, job_of(moderator, source, whole))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("rows", [70, 80])
def test_an_input_that_ended_within_a_line_and_grew_is_continued(tmp_path, out, moderator, small, rows):
    source = source_of([f"text {i}" for i in range(137)], tmp_path / "in.csv")
    whole = source.read_bytes()
    source.write_bytes(b"".join(whole.splitlines(keepends=True)[: rows + 1])[:-3])
    job = job_of(moderator, source, out)
    scan(moderator, job)
    assert scan(moderator, job).judged == 0
    source.write_bytes(whole)
    assert scan(moderator, job).judged == 137 - 60
    undisturbed = tmp_path / "undisturbed.jsonl"
    scan(moderator, job_of(moderator, source, undisturbed))
    assert out.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("change", ["first", "shorter", "boundary"])
def test_an_input_that_changed_is_refused(tmp_path, out, moderator, small, change):
    texts = [f"text {i}" for i in range(137)]
    source = source_of(texts, tmp_path / "in.csv")
    job = job_of(moderator, source, out)
    scan(moderator, job)
    before = out.read_bytes()
    changed = {"first": ["other", *texts[1:]], "shorter": texts[:50], "boundary": texts[:60]}[change]
    source_of(changed, source)
    with pytest.raises(InvalidFile, match="not the one"):
        scan(moderator, job)
    assert out.read_bytes() == before
    assert scan(moderator, job, restart=True).rows == len(changed)


def test_a_change_of_policy_model_columns_or_settings_is_refused_by_name(tmp_path, out, moderator):
    source = source_of(["a", "b"], tmp_path / "in.csv")
    scan(moderator, job_of(moderator, source, out))
    other = Moderator(
        moderator.engine, moderator.tokenizer, settings=moderator.settings.model_copy(update={"passage_tokens": 99})
    )
    for named, judge, more in [
        ("policy", moderator, {"policy": "moderation-13"}),
        ("kind", moderator, {"kind": Kind.ANSWER}),
        ("columns", moderator, {"columns": Columns(id="id", title="id")}),
        ("text", moderator, {"keep_text": False}),
        ("encoding", moderator, {"encoding": "cp1252"}),
        ("passage_tokens", other, {}),
    ]:
        with pytest.raises(InvalidFile, match=f"{named} \\(was"):
            scan(judge, job_of(judge, source, out, **more))


def test_a_policy_of_another_model_is_refused_before_anything_is_judged(tmp_path, out, moderator):
    policy = moderator.policies.get("self-reflection")
    record = FittedCalibration(model="another", fits=())
    job = job_of(moderator, source_of(["a"], tmp_path / "in.csv"), out)
    with pytest.raises(InvalidPolicy, match="another"):
        scan(moderator, Job(job.inputs, job.output, policy.model_copy(update={"calibration": record}), job.kind))
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv.gz", ".parquet"])
def test_killed_at_any_moment_and_started_again_it_gives_what_an_undisturbed_run_gives(
    tmp_path, moderator, small, suffix
):
    texts = [f"text {i % 41} {'again ' * (i % 5)}" for i in range(230)] + ["", "last"]
    source = source_of(texts, tmp_path / "in.csv")
    undisturbed = tmp_path / f"undisturbed{suffix}"
    scan(moderator, job_of(moderator, source, undisturbed))
    out = tmp_path / f"out{suffix}"
    run = subprocess.run(
        [sys.executable, "-m", "tests.scan.kills", str(source), str(out), "20"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) >= 10
    assert out.read_bytes() == undisturbed.read_bytes()
    assert side(out).read_bytes() == side(undisturbed).read_bytes()
    assert not [name for name in os.listdir(tmp_path) if "part" in name]


def test_an_interrupted_scan_keeps_what_was_committed_and_the_earlier_output(tmp_path, out, moderator, small):
    out.write_text("earlier")
    source = source_of([f"text {i}" for i in range(100)], tmp_path / "in.csv")
    job = job_of(moderator, source, out)

    def interrupt(now):
        if now.rows >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(moderator, job, on_progress=interrupt)
    assert out.read_text() == "earlier"
    rest = scan(moderator, job)
    assert rest.rows == 100
    assert rest.judged <= 60


def test_two_scans_into_one_output_keep_out_of_each_others_way(tmp_path, out, moderator):
    job = job_of(moderator, source_of(["a"], tmp_path / "in.csv"), out)
    refused = []

    def meanwhile(now):
        with pytest.raises(InvalidFile, match="another scan") as caught:
            scan(moderator, job)
        refused.append(caught)

    scan(moderator, job, on_progress=meanwhile)
    assert refused


def test_a_disk_that_is_full_loses_nothing(tmp_path, out, moderator, small, monkeypatch):
    source = source_of([f"text {i}" for i in range(100)], tmp_path / "in.csv")
    undisturbed = tmp_path / "undisturbed.jsonl"
    scan(moderator, job_of(moderator, source, undisturbed))
    job = job_of(moderator, source, out)
    room = [3]

    def fsync(handle, real=os.fsync):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InvalidFile, match="No space left on device") as caught:
        scan(moderator, job)
    assert "goes on" in caught.value.hint
    monkeypatch.undo()
    scan(moderator, job_of(moderator, source, out), restart=True)
    assert lines(out) == lines(undisturbed)


# ---- pipes and stores


def test_a_pipe_is_read_and_written_row_by_row_and_leaves_nothing_behind(tmp_path, moderator, monkeypatch, capfdbinary):
    source = source_of(["a", "", "c"], tmp_path / "in.jsonl")
    with source.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        summary = scan(moderator, job_of(moderator, "-", "-"))
    assert summary.rows == 3
    written = capfdbinary.readouterr().out.splitlines()
    expected = tmp_path / "out.jsonl"
    scan(moderator, job_of(moderator, source, expected))
    assert b"".join(line + b"\n" for line in written) == expected.read_bytes()


def test_ledger_and_output_may_lie_in_an_object_store(tmp_path, moderator, small, out):
    import fsspec

    source = source_of([f"text {i}" for i in range(70)], tmp_path / "in.csv")
    scan(moderator, job_of(moderator, source, out))
    store = fsspec.filesystem("memory")
    try:
        job = job_of(moderator, source, "memory://bucket/out.jsonl")
        assert scan(moderator, job).judged == 70
        assert store.cat("/bucket/out.jsonl") == out.read_bytes()
        assert scan(moderator, job).judged == 0
        store.rm_file("/bucket/out.jsonl.ledger/000002.jsonl")
        assert scan(moderator, job).judged == 30
        assert store.cat("/bucket/out.jsonl") == out.read_bytes()
    finally:
        store.store.clear()


# ---- what cannot be scanned


def test_nothing_is_written_when_the_scan_cannot_begin(tmp_path, out, moderator):
    source = source_of(["a"], tmp_path / "in.csv")
    for columns in (Columns(text="nope"), Columns(id="nope")):
        with pytest.raises(InvalidFile):
            scan(moderator, job_of(moderator, source, out, columns=columns))
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
        scan(moderator, job_of(moderator, source, tmp_path / output))
    assert source.read_bytes() == before


def test_the_side_file_of_the_output_is_no_input(tmp_path, out, moderator):
    side(out).write_text('{"text": "a"}\n')
    with pytest.raises(InvalidFile, match="overwrite its own input"):
        job_of(moderator, side(out), out, columns=Columns()).check()


# ---- size


def test_memory_does_not_grow_with_the_file(tmp_path, out, moderator, small):
    """10 MB of input, of which only a few blocks of 20 rows are held."""
    texts = [f"{i % 3} {'word ' * 400}" for i in range(5000)]
    source = source_of(texts, tmp_path / "in.jsonl")
    assert source.stat().st_size > 10_000_000
    scan(moderator, job_of(moderator, source_of(texts[:3], tmp_path / "few.jsonl"), tmp_path / "few.out.jsonl"))
    tracemalloc.start()
    try:
        job = job_of(moderator, source, out)
        summary = scan(moderator, job, on_progress=lambda _: moderator.engine.seen.clear())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.rows == 5000
    assert peak < 4_000_000
