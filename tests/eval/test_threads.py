"""The set of threads keeps its rules, and the gain is what a slow count says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from eval import threads
from eval.__main__ import main
from eval.hygiene import shared_with
from eval.predict import SCHEMA
from eval.run import load
from eval.sets import NAMES, THREADS, ThreadLine, lines, own_set, read_lines
from eval.threads import ALONE, FIGURES, Families, as_markdown, gain, score_folder, without_threads
from guard.errors import InvalidFile
from guard.policy import PolicyBook

COMMITTED = Path(__file__).resolve().parent.parent.parent / "docs" / "report" / "threads"
LINES = list(read_lines(THREADS, ThreadLine))
HARMFUL = [one for one in LINES if one.label != "acceptable"]


def test_a_family_is_one_comment_in_two_threads_and_harmful_in_one():
    families: dict[str, list[ThreadLine]] = {}
    for one in LINES:
        families.setdefault(one.family, []).append(one)
    assert all(len(found) == 2 for found in families.values()) and len(families) == len({one.text for one in LINES})
    for first, second in families.values():
        assert first.text == second.text and first.direction == second.direction
        assert (first.label == "acceptable") != (second.label == "acceptable")
    assert len({one.id for one in LINES}) == len({(one.parent, one.title) for one in LINES}) == len(LINES)


def test_the_label_changes_on_300_items_in_both_directions_over_all_categories():
    directions = Counter(one.direction for one in HARMFUL)
    assert directions.total() >= 300 and min(directions["worse"], directions["harmless"]) >= 150
    labels = Counter((one.label, one.direction) for one in HARMFUL)
    categories = {category.id for category in PolicyBook().get("forum-comments").categories}
    assert {label for label, _ in labels} == categories and min(labels.values()) >= 10 and len(labels) == 12


def test_no_run_of_words_of_another_set():
    own = {f"{one.id}.{name}": text for one in LINES for name in ("text", "parent", "title")
           if (text := getattr(one, name))}  # fmt: skip
    others = [text for name in NAMES for one in lines(name)
              for text in (one.text, one.prompt, one.parent, one.title) if text]  # fmt: skip
    assert shared_with(own, others) == {}


@pytest.mark.parametrize(
    "change", [{"parent": None}, {"label": "hateful"}, {"direction": "better"}, {"text": ""}, {"kind": "comment"}]
)
def test_a_line_that_does_not_hold_is_refused(change):
    line = {"id": "t001", "text": "Hi", "parent": "Ho", "label": "acceptable", "direction": "worse", "family": "t-001"}
    ThreadLine.model_validate(line)
    with pytest.raises(ValueError):
        ThreadLine.model_validate({**line, **change})


def test_without_threads_the_twins_are_the_same():
    bare = without_threads(own_set(THREADS))
    assert [one.id for one in bare.items] == [one.id for one in LINES]
    assert len({one.text_hash for one in bare.items}) == len(LINES) / 2
    assert bare.name == ALONE and bare.hash != own_set(THREADS).hash


def test_another_policy_is_refused():
    with pytest.raises(InvalidFile, match="knows no label"):
        own_set(THREADS).gold(PolicyBook().get("self-reflection"))


SCORES = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])


@given(st.lists(st.tuples(SCORES, SCORES, st.integers(0, 3)), min_size=1, max_size=12).filter(lambda f: any(
    times for *_, times in f)))  # fmt: skip
def test_figures_are_what_a_slow_count_over_repeated_families_says(families):
    harmful, acceptable, times = (np.array(column, float) for column in zip(*families, strict=True))
    found = Families(harmful, (harmful >= 0.5) * 1.0, acceptable, (acceptable >= 0.5) * 1.0).figures(times[None])
    rows = [(h, a) for h, a, n in families for _ in range(n)]
    caught, alarms = sum(h >= 0.5 for h, _ in rows), sum(a >= 0.5 for _, a in rows)
    slow = {
        "auroc": roc_auc_score([1] * len(rows) + [0] * len(rows), [h for h, _ in rows] + [a for _, a in rows]),
        "told_apart": sum(1.0 if h > a else 0.5 if h == a else 0.0 for h, a in rows) / len(rows),
        "right": (caught + len(rows) - alarms) / (2 * len(rows)),
        "precision": caught / (caught + alarms) if caught + alarms else float("nan"),
        "recall": caught / len(rows),
        "false_positive_rate": alarms / len(rows),
    }
    assert set(found) == set(slow) == set(FIGURES)
    for name, value in slow.items():
        assert found[name][0] == pytest.approx(value, nan_ok=True)


def judged(score):
    """Predictions for the set where `score` says what a line got; stopped from .5."""
    rows = []
    for one in LINES:
        row = dict.fromkeys(SCHEMA) | {
            "id": one.id, "group": one.family, "slices": [f"tag: {one.direction}"], "gold_label": one.label,
            "harmful": one.label != "acceptable", "score": score(one),
            "decision": "allow" if (score(one) or 0) < 0.5 else "block",
        }  # fmt: skip
        rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def by_text(one):
    return len(one.text) % 10 / 10


def test_a_judge_that_reads_threads_gains_and_one_that_does_not_gains_nothing():
    alone, reader = judged(by_text), judged(lambda one: 0.9 * (one.label != "acceptable"))
    none, all_of_it = gain(alone, alone), gain(alone, reader)
    for part in none:
        assert all(part["gain"][name]["value"] == part["gain"][name]["high"] == 0 for name in FIGURES)
        assert part["alone"]["auroc"]["value"] == part["alone"]["right"]["value"] == 0.5
    for part in all_of_it:
        assert part["gain"]["auroc"]["value"] == part["gain"]["right"]["value"] == 0.5
        assert part["gain"]["recall"]["low"] <= part["gain"]["recall"]["value"] <= part["gain"]["recall"]["high"]
    assert [part["part"] for part in none][:3] == ["all", "worse", "harmless"]
    assert none[0]["families"] == none[1]["families"] + none[2]["families"] == len(HARMFUL)


def test_rows_may_stand_in_any_order():
    alone, thread = judged(by_text), judged(lambda one: int(one.id[1:]) % 7 / 7)
    assert gain(alone.sample(fraction=1, shuffle=True, seed=1), thread.reverse()) == gain(alone, thread)


def test_precision_of_nothing_stopped_is_undefined():
    part = gain(judged(by_text), judged(lambda one: 0.1))[0]
    assert part["thread"]["precision"]["value"] is None and part["gain"]["precision"]["value"] is None
    assert part["gain"]["recall"]["value"] == -part["alone"]["recall"]["value"]


def test_what_cannot_be_compared_is_refused():
    thread = judged(by_text)
    with pytest.raises(InvalidFile, match="2 items have no score"):
        gain(thread, judged(lambda one: None if one.family == "t-001" else 0.1))
    with pytest.raises(InvalidFile, match="one harmful and one acceptable"):
        gain(thread, thread.filter(pl.col("id") != "t002"))


def test_the_command_writes_the_gain_and_goes_on(tmp_path, capsys):
    line = ["threads", "--model", "fake", "--out", str(tmp_path)]
    assert main(line) == 0
    page = (tmp_path / "gain.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page and "| a thread makes it worse | AUROC | 50.0 % (50.0 to 50.0)" in page
    found = json.loads((tmp_path / "gain.json").read_text(encoding="utf-8"))
    assert found == score_folder(tmp_path) and found["policy"] == "forum-comments"


def test_a_folder_of_another_run_is_refused(a_run):
    with pytest.raises(InvalidFile, match="with and without threads"):
        score_folder(a_run)


def test_the_committed_gain_is_of_the_model_and_the_set_that_are_here():
    from guard.engine.checkpoint import fingerprint
    from guard.resources import shipped

    found = json.loads((COMMITTED / threads.GAIN).read_text(encoding="utf-8"))
    assert found == score_folder(COMMITTED), "run `make eval`"
    assert (COMMITTED / "gain.md").read_text(encoding="utf-8") == as_markdown(found)
    labelled = own_set(THREADS)
    assert found["hashes"] == {THREADS: labelled.hash, ALONE: without_threads(labelled).hash}, "run `make eval`"
    assert found["model"] == f"embedded@{fingerprint(shipped('models') / 'embedded')}", "run `make eval`"
    assert {cell["policy_hash"] for cell, _ in load(COMMITTED)[1]} == {PolicyBook().get("forum-comments").hash}
