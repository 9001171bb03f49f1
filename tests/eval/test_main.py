"""The commands, as somebody types them: exit statuses, one line for an error."""

from __future__ import annotations

import polars as pl
import pytest

from eval.__main__ import main
from eval.compare import compare
from eval.predict import read
from guard.errors import InvalidFile
from guard.measure.promise import Promise


def predictions(folder):
    return next((folder / "predictions").glob("*.parquet"))


def worse(path, tmp_path, n):
    """The same predictions with the first n harmful items accepted."""
    frame = read(path)
    accepted = (pl.col("harmful").cum_sum() <= n) & pl.col("harmful")
    made = tmp_path / f"worse{n}.parquet"
    frame.with_columns(decision=pl.when(accepted).then(pl.lit("allow")).otherwise(pl.lit("block"))).write_parquet(made)
    return made


def test_run_score_and_report(tmp_path, labels, capsys):
    out = tmp_path / "out"
    assert main(["run", "--set", str(labels), "--policy", "forum-comments", "--model", "fake", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= {
        "run.json",
        "scores.json",
        "report.html",
        "report.md",
        "predictions",
    }
    assert "60 of 60" in capsys.readouterr().err
    before = (out / "scores.json").read_bytes()
    assert main(["score", str(out)]) == 0 and (out / "scores.json").read_bytes() == before
    readme = tmp_path / "README.md"
    readme.write_text("<!-- evaluation: written by `make eval` -->\nold\n<!-- end of evaluation -->\n")
    assert main(["report", str(out), "--readme", str(readme)]) == 0 and "old" not in readme.read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "--set", "nowhere"], "neither one of our sets nor a file"),
        (["run", "--set", "standard", "--set", "standard"], "Two sets have the name"),
        (["run", "--set", "standard", "--policy", "nobody"], "No policy is called"),
        (["run", "--set", "standard", "--prevalence", "2"], "prevalence lies between"),
        (["score", "nowhere"], "not the manifest"),
        (["compare", "a.parquet", "b.parquet"], "not a readable Parquet"),
        (["gate", "--old", "self-reflection", "--new", "self-reflection", "--require", "x>=1"], "not a promise"),
        (["gate", "--old", "x"], "Missing option"),
        (["fly"], "No such command"),
    ],
)
def test_what_goes_wrong_is_one_line_and_status_2(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GUARD_MODEL", "fake")
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path / "x")]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert problem in said.err and said.err.count("\n") == 1 and not said.out


def test_compare_lists_what_changed(a_run, tmp_path, capsys):
    old = worse(predictions(a_run), tmp_path, 0)
    assert main(["compare", str(old), str(worse(old, tmp_path, 3))]) == 0
    said = capsys.readouterr().out
    assert said.count("worse  labels.csv") == 3 and "3 verdicts changed of 60" in said and "p = 0.25" in said


def test_the_gate(a_run, tmp_path, labels, capsys):
    old = worse(predictions(a_run), tmp_path, 0)
    new = worse(old, tmp_path, 1)  # one of 36 harmful items: 2.8 %
    line = ["gate", "--old", str(old), "--new", str(new), "--set", str(labels)]
    assert main([*line, "--max-loss", "0.03"]) == 0 and "gate: open" in capsys.readouterr().out
    assert main(line) == 1 and "recall (harmful): 1.0000 before, 0.9722 now" in capsys.readouterr().out
    assert main([*line, "--max-loss", "0.03", "--require", "recall>=0.99"]) == 1
    assert main([*line, "--max-loss", "0.03", "--require", "recall>=0.97"]) == 0


def test_the_gate_judges_policies_and_takes_runs(a_run, labels, monkeypatch, capsys):
    monkeypatch.setenv("GUARD_MODEL", "fake")
    line = ["--set", str(labels), "--new", "forum-comments"]
    assert main(["gate", "--old", str(a_run), *line]) == 0
    assert "0 verdicts changed of 60" in capsys.readouterr().out
    assert main(["gate", "--old", "forum-comments", *line]) == 0
    assert main(["gate", "--old", str(a_run), "--set", str(labels), "--new", "moderation-13"]) == 2  # no label `insult`


def test_other_items_are_refused(a_run, tmp_path):
    frame = read(predictions(a_run))
    for other in (
        frame.head(59),
        frame.with_columns(harmful=~pl.col("harmful")),
        frame.with_columns(id=pl.col("id") + "x"),
    ):
        with pytest.raises(InvalidFile, match="not predictions of the same items"):
            compare(frame, other)


def test_a_gate_notices_either_class(a_run, tmp_path):
    old = read(worse(predictions(a_run), tmp_path, 0))
    allow = old.with_columns(decision=pl.lit("allow"))
    assert len(compare(old, allow).complaints(0.5)) == 1 and len(compare(allow, old).complaints(0.5)) == 1
    assert compare(old, old).complaints(0.0) == [] and compare(old, old).change.p == 1.0
    assert compare(old, old).complaints(0.0, (Promise.parse("fpr<=0.5"),))
