"""Figures recounted from the saved predictions by other means, and the same bytes every time."""

from __future__ import annotations

import json

import polars as pl
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from eval.run import load, score_run, write_json
from eval.score import Options, score
from guard.errors import InvalidFile
from guard.labelled import read_labelled


def test_figures_are_those_that_anybody_counts(a_run):
    scores = score_run(a_run, Options())["cells"][0]
    ((cell, frame),) = load(a_run)[1]
    rows = frame.to_dicts()
    gold = [row["harmful"] for row in rows]
    stopped = [row["decision"] != "allow" for row in rows]
    for positive, true, said in (
        ("harmful", gold, stopped),
        ("acceptable", [not g for g in gold], [not s for s in stopped]),
    ):
        view = scores["views"][positive]
        assert view["positive_class"] == positive
        for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            assert view[name]["value"] == pytest.approx(function(true, said), abs=1e-6)
            assert view[name]["low"] <= view[name]["value"] <= view[name]["high"]
    assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(gold, [row["score"] for row in rows]), abs=1e-6)
    insults = [row for row in rows if row["gold_label"] == "insult"]
    found = next(row for row in scores["categories"] if row["category"] == "insult")
    assert found["items"] == len(insults) == 12
    assert found["named"]["value"] == pytest.approx(
        sum("insult" in row["categories"] for row in insults) / 12, abs=1e-6
    )
    assert sum(sum(row.values()) for row in scores["confusion"].values()) == 60
    assert scores["cost"]["seconds_per_1000"] > 0 and scores["cost"]["cost_per_1000"] is None


def test_the_same_predictions_give_the_same_bytes(a_run):
    first = (score_run(a_run, Options()), (a_run / "scores.json").read_bytes())[1]
    score_run(a_run, Options())
    assert (a_run / "scores.json").read_bytes() == first
    assert "NaN" not in first.decode()


def test_errors_are_a_column_and_not_accepted(a_run):
    ((cell, frame),) = load(a_run)[1]
    broken = frame.with_columns(
        decision=pl.lit("error"),
        score=pl.lit(None, pl.Float64),
        category_scores=pl.lit("{}"),
        error=pl.lit("engine_error: x"),
    )
    found = score([(cell, broken)])[0]
    assert found["counts"]["unscored"] == 60 and found["errors"] == {"engine_error": 60}
    assert (
        found["views"]["acceptable"]["recall"]["value"] == 0.0 and found["views"]["harmful"]["recall"]["value"] == 1.0
    )
    assert found["auroc"] == {"value": None, "low": None, "high": None, "n": 0, "reason": "no item has a score"}


def test_standard_and_adversarial_are_scored_together(a_run):
    ((cell, frame),) = load(a_run)[1]
    parts = [({**cell, "set": name}, frame.with_columns(set=pl.lit(name))) for name in ("standard", "adversarial")]
    pooled = score(parts)[2]
    assert pooled["set"] == "standard + adversarial" and pooled["counts"]["items"] == 120
    assert [row["slice"] for row in pooled["slices"][:2]] == ["set: adversarial", "set: standard"]
    assert pooled["views"]["harmful"]["recall"]["n"] == 72


def test_a_set_of_one_class_has_no_curve(a_run):
    ((cell, frame),) = load(a_run)[1]
    found = score([(cell, frame.filter(pl.col("harmful")))])[0]
    assert found["auroc"]["reason"] == "needs items of both classes"
    assert found["views"]["acceptable"]["recall"]["reason"] == "no item is acceptable"


def test_a_price_gives_a_cost(a_run):
    found = score_run(a_run, Options(price_per_hour=3.6))["cells"][0]["cost"]
    assert found["cost_per_1000"] == pytest.approx(found["seconds_per_1000"] / 1000)


def test_predictions_that_do_not_match_the_set_are_refused(a_run, labels):
    labels.write_text(labels.read_text().replace("nice", "bad"))
    with pytest.raises(InvalidFile, match="do not match the set"):
        score_run(a_run, Options(), [read_labelled(labels)])


def test_a_manifest_of_other_predictions_is_refused(a_run):
    manifest = json.loads((a_run / "run.json").read_text())
    manifest["cells"][0]["policy_hash"] = "0" * 64
    write_json(a_run / "run.json", manifest)
    with pytest.raises(InvalidFile, match="not the predictions of this run"):
        load(a_run)
    with pytest.raises(InvalidFile, match="not the manifest"):
        load(a_run / "nowhere")
