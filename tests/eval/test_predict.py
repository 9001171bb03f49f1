"""Predictions: one row per item, by the served path; a run that is killed goes on; strangers are refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from eval import predict as module
from eval.predict import SCHEMA, predict, read, require_match
from guard.engine.fake import FakeEngine
from guard.errors import EngineError, InvalidFile
from guard.labelled import read_labelled
from guard.moderator import Moderator
from guard.policy import PolicyBook
from guard.resources import shipped
from guard.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def test_a_row_per_item_with_what_was_served(tmp_path, labels, policy, moderator, cell):
    frame, items = read(tmp_path / "cell" / cell.file), read_labelled(labels).items
    assert frame.columns == list(SCHEMA) and frame.height == len(items) == 60
    for row, one in zip(frame.iter_rows(named=True), items, strict=True):
        verdict = moderator.judge(one.item, policy=policy)
        assert (row["id"], row["text_hash"], row["gold_label"]) == (one.id, one.text_hash, one.label)
        assert row["harmful"] == (one.label != "acceptable")
        assert (row["score"], row["decision"], row["categories"]) == (
            verdict.score, verdict.decision.value, list(verdict.categories),
        )  # fmt: skip
        assert json.loads(row["category_scores"]) == pytest.approx(verdict.category_scores, abs=1e-6)
        assert (row["policy_hash"], row["prompt_hash"], row["model"]) == (policy.hash, verdict.prompt_hash, "fake")
        assert "kind: comment" in row["slices"]


def test_an_error_is_a_row(tmp_path, labels, policy):
    script = [EngineError("broken") if n % 2 else [0.9, *[0.1 / 6] * 6] for n in range(60)]
    broken = Moderator(FakeEngine(script), load_tokenizer(shipped("models") / "embedded"))
    cell = predict(broken, read_labelled(labels), policy, tmp_path / "e", source="x")
    frame = read(tmp_path / "e" / cell.file)
    wrong = frame.filter(pl.col("decision") == "error")
    assert wrong.height == 30 and wrong["score"].null_count() == 30
    assert set(wrong["error"]) == {"engine_error: broken"} and set(wrong["predicted_label"]) == {"error"}


def test_kinds_that_the_policy_does_not_know_are_counted(tmp_path, policy, moderator):
    path = tmp_path / "l.csv"
    path.write_text("text,label,kind\na fool,insult,comment\na prompt,acceptable,prompt\n,0,comment\n")
    cell = predict(moderator, read_labelled(path), policy, tmp_path / "k", source="x")
    assert (cell.items, cell.out_of_scope, cell.skipped) == (1, 1, 1)


def test_what_is_finished_is_not_judged_again(tmp_path, labels, policy, moderator, cell):
    again = Moderator(FakeEngine([]), load_tokenizer(shipped("models") / "embedded"))  # fails at the first question
    assert predict(again, read_labelled(labels), policy, tmp_path / "cell", source=str(labels)) == cell
    with pytest.raises(AssertionError, match="script ended"):
        predict(
            again.worded(shipped("prompts") / "second"), read_labelled(labels), policy, tmp_path / "cell",
            source=str(labels),
        )  # fmt: skip
    labels.write_text(labels.read_text().replace("silly", "sillier"))
    with pytest.raises(AssertionError, match="script ended"):
        predict(again, read_labelled(labels), policy, tmp_path / "cell", source=str(labels))


def test_a_journal_is_gone_on_with_and_its_torn_line_judged_again(
    tmp_path, labels, policy, moderator, cell, monkeypatch
):
    monkeypatch.setattr(module, "BLOCK", 16)
    whole = read(tmp_path / "cell" / cell.file)

    class Stops(FakeEngine):
        def score(self, requests):
            if len(self.seen) >= 32:
                raise KeyboardInterrupt
            return super().score(requests)

    folder, found = tmp_path / "j", read_labelled(labels)
    with pytest.raises(KeyboardInterrupt):
        predict(Moderator(Stops(), load_tokenizer(shipped("models") / "embedded")), found, policy, folder, source="x")
    journal = next(folder.glob("*.journal.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'{"id": "33", "sco')
    cell = predict(moderator, found, policy, folder, source="x")
    assert len(moderator.engine.seen) == 60 + 28 and cell.judged == 60
    assert read(folder / cell.file).equals(whole) and not list(folder.glob("*.jsonl"))


def test_a_killed_run_goes_on(tmp_path, labels):
    """Kill -9 while it judges; the same command then gives what an undisturbed run gives."""
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([lines[0], *(f"{n} {line}" for n in range(60) for line in lines[1:])]) + "\n")
    command = [
        sys.executable,
        "-m",
        "eval",
        "run",
        "--set",
        str(labels),
        "--policy",
        "forum-comments",
        "--model",
        "fake",
    ]
    killed = tmp_path / "killed"
    with subprocess.Popen([*command, "--out", str(killed)], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 100_000 for path in killed.glob("predictions/*.journal.jsonl")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not list(killed.glob("predictions/*.parquet"))
    for folder in (killed, tmp_path / "whole"):
        subprocess.run([*command, "--out", str(folder)], cwd=ROOT, check=True, capture_output=True, timeout=300)
    (first,), (second,) = (list((folder / "predictions").iterdir()) for folder in (killed, tmp_path / "whole"))
    assert read(first).equals(read(second)) and read(first).height == 3600


def test_predictions_of_other_texts_or_labels_are_refused(tmp_path, labels, cell):
    frame = read(tmp_path / "cell" / cell.file)
    require_match(frame, read_labelled(labels))
    text = labels.read_text()
    labels.write_text(text.replace("pills", "bills"))
    with pytest.raises(InvalidFile, match="12 items have another text"):
        require_match(frame, read_labelled(labels))
    labels.write_text(text.replace(",spam", ",hate"))
    with pytest.raises(InvalidFile, match="labels have changed"):
        require_match(frame, read_labelled(labels))


def test_what_is_no_file_of_predictions_is_refused(tmp_path, labels):
    with pytest.raises(InvalidFile, match="not a readable Parquet"):
        read(labels)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(InvalidFile, match="no column 'set'"):
        read(tmp_path / "x.parquet")


def test_the_label_given_is_the_likeliest_without_its_children(moderator):
    policy = PolicyBook().get("moderation-13")
    shares = dict.fromkeys((c.id for c in policy.categories), 0.001)
    shares["hate/threatening"], shares["hate"], shares["insult"] = 0.6, 0.2, 0.0
    script = [[0.1, *(shares[c.id] for c in policy.categories)]]
    judge = Moderator(FakeEngine(script), load_tokenizer(shipped("models") / "embedded"))
    verdict = judge.judge("x", policy=policy)
    assert verdict.category_scores["hate"] > verdict.category_scores["hate/threatening"]
    assert module.predicted_label(policy, verdict) == "hate/threatening"
