"""What attacks cost: the same items untouched and attacked, rows kept, and figures that anybody can recount."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from eval.__main__ import main
from eval.attacks.figures import blocks, figures
from eval.attacks.measure import FIGURES, TABLE, Asked, measure
from eval.attacks.registry import ATTACKS, find
from eval.attacks.sample import PER_CLASS, UNTOUCHED, sample, under
from eval.report import as_markdown
from eval.run import load
from eval.sets import own_set
from guard.engine.fake import FakeEngine
from guard.errors import InvalidFile
from guard.labelled import LabelledSet, read_labelled
from guard.policy import PolicyBook
from guard.settings import Settings
from tests.attack_rows import hold_against_the_rows, recounted
from tests.newcombe import newcombe

NAMES = ("casing", "base64", "homoglyphs+padding")
FAKE = Settings(model="fake")


def asked(**change) -> Asked:
    return Asked(**{"sets": ("labels.csv",), "attacks": tuple(map(find, NAMES)), "per_class": 20, "seed": 1, **change})


@pytest.fixture
def measured(tmp_path, labels, policy):
    folder = tmp_path / "attacks"
    measure([read_labelled(labels)], asked(), policy, FAKE, folder, command="python -m eval attacks")
    return folder


def test_the_table_is_what_the_saved_rows_say(measured):
    hold_against_the_rows(measured)
    table = (measured / TABLE).read_text(encoding="utf-8")
    found = json.loads((measured / FIGURES).read_text())
    assert table == as_markdown(blocks(found)) and table.count("\n| homoglyphs+padding |") == 1
    n, _, _, after = recounted(measured)["casing"]["recall"]
    assert re.search(rf"\| casing \| .*? \| {100 * after / n:.1f} % \(", table)
    assert "20 harmful and 20 acceptable" in table and "seed 1" in table


def test_intervals_are_newcombes_where_items_stand_alone(tmp_path, labels, policy):
    path, folder = tmp_path / "alone.csv", tmp_path / "alone"
    pl.read_csv(labels).drop("group").write_csv(path)
    found = measure([read_labelled(path)], asked(), policy, FAKE, folder, command="")
    for row in found["attacks"]:
        n, both, before, after = recounted(folder)[row["attack"]]["recall"]
        low, _, high = newcombe(both, before - both, after - both, n - before - after + both)
        assert (row["recall"]["change"]["low"], row["recall"]["change"]["high"]) == pytest.approx((low, high), abs=1e-5)


def test_each_item_is_there_under_each_attack_with_its_label_and_context(labels, policy):
    untouched = sample([read_labelled(labels)], policy, 20, 1)
    attacked = under(find("casing"), untouched, 1)
    assert attacked.name == "casing" and len(attacked.items) == len(untouched.items) == 40
    for was, now in zip(untouched.items, attacked.items, strict=True):
        assert (was.id, was.label, was.group, was.tags) == (now.id, now.label, now.group, now.tags)
        assert now.item.text == ATTACKS["casing"].on(was.item.text, was.id, 1)
        assert now.item.model_copy(update={"text": was.item.text}) == was.item


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_and_no_item_moves_another():
    sets, policy = [own_set("standard"), own_set("adversarial")], PolicyBook().get("self-reflection")
    large = sample(sets, policy)
    small = {one.id for one in sample(sets, policy, 30).items}
    by_class = {
        harmful: [one.id for one in large.items if (one.label != "acceptable") is harmful] for harmful in (True, False)
    }
    assert [len(ids) for ids in by_class.values()] == [PER_CLASS, PER_CLASS]
    assert small == {id_ for ids in by_class.values() for id_ in ids[:30]}
    assert {id_.partition("/")[0] for id_ in small} == {"standard", "adversarial"}
    fewer = [LabelledSet("standard", sets[0].items[::2], words=sets[0].words), sets[1]]
    left = {f"standard/{one.id}" for one in sets[0].items[1::2]}
    assert [one.id for one in sample(fewer, policy, 10**6).items] == [
        one.id for one in sample(sets, policy, 10**6).items if one.id not in left
    ]
    assert {one.id for one in sample(sets, policy, 30, seed=2).items} != small


def test_the_default_measurement_keeps_to_its_time():
    """Ten minutes at 30 items a second."""
    assert 2 * PER_CLASS * (1 + len(ATTACKS)) / 30 < 600


def test_kinds_that_the_policy_does_not_judge_are_not_drawn(tmp_path, policy):
    path = tmp_path / "mixed.csv"
    path.write_text("text,label,kind\na fool,insult,comment\na bomb,hate,prompt\na day,acceptable,comment\n")
    assert [one.item.text for one in sample([read_labelled(path)], policy).items] == ["a fool", "a day"]
    path.write_text("text,label,kind\na day,acceptable,comment\na bomb,hate,prompt\n")
    with pytest.raises(InvalidFile, match="No harmful item"):
        sample([read_labelled(path)], policy)


def test_a_set_without_safe_items_has_no_false_positives_and_says_so(tmp_path, policy):
    path = tmp_path / "harm.csv"
    path.write_text("text,label,kind\n" + "".join(f"fool {n},insult,comment\n" for n in range(9)))
    found = measure([read_labelled(path)], asked(), policy, FAKE, tmp_path / "h", command="")
    assert found["mean_change"]["false_positives"] is None and "– (no item is acceptable)" in as_markdown(blocks(found))


def test_what_was_judged_is_not_judged_again(measured, labels, policy, monkeypatch):
    class Asleep(FakeEngine):
        def score(self, requests):
            raise AssertionError("there is nothing left to ask")

    before = (measured / FIGURES).read_bytes()
    monkeypatch.setattr("guard.engine.fake.FakeEngine.score", Asleep.score)
    measure([read_labelled(labels)], asked(), policy, FAKE, measured, command="python -m eval attacks")
    assert (measured / FIGURES).read_bytes() == before
    with pytest.raises(AssertionError, match="nothing left"):
        measure([read_labelled(labels)], asked(seed=2), policy, FAKE, measured, command="")


def test_a_killed_measurement_goes_on_attack_by_attack(tmp_path, labels, policy, monkeypatch):
    class Killed(Exception):
        pass

    def stop_at_the_second(what, done, of):
        if what.startswith("base64"):
            raise Killed

    sets, folder = [read_labelled(labels)], tmp_path / "k"
    with pytest.raises(Killed):
        measure(sets, asked(), policy, FAKE, folder, command="c", on_progress=stop_at_the_second)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("predictions/*.parquet")}
    assert sorted(name.partition(".")[0] for name in kept) == ["casing", "untouched"]
    measure(sets, asked(), policy, FAKE, folder, command="c")
    assert all((folder / "predictions" / name).stat().st_mtime_ns == made for name, made in kept.items())
    hold_against_the_rows(folder)


def test_rows_of_other_items_are_refused(measured):
    frames = {cell["set"]: frame for cell, frame in load(measured)[1]}
    frames["casing"] = frames["casing"].with_columns(harmful=~pl.col("harmful"))
    with pytest.raises(InvalidFile, match="not of the items"):
        figures(frames[UNTOUCHED], frames, [find("casing")])


def test_the_command_measures_prints_and_goes_on(tmp_path, labels, capsys):
    out = tmp_path / "out"
    line = [
        "attacks", "--set", str(labels), "--policy", "forum-comments", "--model", "fake", "--out", str(out),
        "--attack", "casing", "--attack", "zero-width+quoting", "--attack", "casing", "--per-class", "10",
    ]  # fmt: skip
    assert main(line) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (out / TABLE).read_text().strip() and "| zero-width+quoting |" in printed.out
    assert "casing under forum-comments with fake: 20 of 20" in printed.err
    assert main(line) == 0 and capsys.readouterr().out == printed.out
    hold_against_the_rows(out)


def test_the_report_of_a_run_shows_the_attacks_that_were_measured_beside_it(a_run, measured):
    assert main(["report", str(a_run)]) == 0
    without = (a_run / "report.md").read_text(encoding="utf-8")
    measured.rename(a_run / "attacks")
    assert main(["report", str(a_run)]) == 0
    shown = (a_run / "report.md").read_text(encoding="utf-8")
    part = (a_run / "attacks" / TABLE).read_text(encoding="utf-8").strip()
    assert part in shown and shown.replace(f"{part}\n\n", "") == without
    assert "<td>homoglyphs+padding</td>" in (a_run / "report.html").read_text(encoding="utf-8")


def test_the_command_says_what_the_attacks_are_and_shows_their_outputs(capsys):
    assert main(["attacks", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ATTACKS)
    assert main(["attacks", "--review", "bidi"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 20 and printed.isascii() and json.loads(printed.splitlines()[0])["text"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--attack", "rot14"], "No attack is called 'rot14'"),
        (["--review", "rot14"], "No attack is called"),
        (["--set", "nowhere"], "neither one of our sets nor a file"),
        (["--set", "lookalike-175"], "No harmful item"),
        (["--policy", "nobody"], "No policy is called"),
        (["--per-class", "0"], "per-class"),
    ],
)
def test_what_goes_wrong_is_one_line_and_status_2(arguments, problem, tmp_path, capsys):
    assert main(["attacks", "--model", "fake", "--out", str(tmp_path / "x"), *arguments]) == 2
    said = capsys.readouterr()
    assert problem in said.err and said.err.count("\n") == 1 and not said.out
