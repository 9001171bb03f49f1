"""What defences gain and cost: each combination's rows are kept, and the figures are those of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from eval.__main__ import main
from eval.attacks import defences, measure
from eval.attacks.defences import COMBINATIONS, FIGURES, TABLE, Remembering, compare
from eval.attacks.measure import Asked
from eval.attacks.registry import ATTACKS, find
from eval.attacks.sample import UNTOUCHED, sample, under
from eval.report import as_markdown
from eval.run import load
from eval.sets import own_set
from guard.engine.checkpoint import fingerprint
from guard.engine.fake import FakeEngine
from guard.errors import EngineError
from guard.labelled import read_labelled
from guard.policy import PolicyBook
from guard.resources import shipped
from guard.settings import Settings
from tests.attack_rows import hold_against_the_rows
from tests.builders import moderator, policy

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("homoglyphs", "base64", "casing")
FAKE = Settings(model="fake")


@pytest.fixture
def compared(tmp_path, labels, policy):  # the fixture of the package
    asked = Asked(("labels.csv",), tuple(map(find, NAMES)), 15, 1)
    compare([read_labelled(labels)], asked, policy, FAKE, tmp_path / "d", command="c")
    return tmp_path / "d"


def stopped(folder: Path, name: str) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Each set's items: harmful, stopped; from the rows alone."""
    cells = json.loads((folder / name / "run.json").read_text())["cells"]
    return {
        cell["set"]: {
            row["id"]: (row["harmful"], row["decision"] != "allow")
            for row in pl.read_parquet(folder / name / "predictions" / cell["file"]).to_dicts()
        }
        for cell in cells
    }


def share(rows: dict[str, tuple[bool, bool]], harmful: bool) -> float:
    mine = [was for is_harmful, was in rows.values() if is_harmful is harmful]
    return sum(mine) / len(mine)


def test_the_figures_are_those_of_the_rows(compared):
    found = json.loads((compared / FIGURES).read_text())
    assert [row["defences"] for row in found["combinations"]] == list(COMBINATIONS)
    bare = stopped(compared, "none")["untouched"]
    for row in found["combinations"]:
        rows = stopped(compared, row["defences"])
        assert set(rows) == {"untouched", *NAMES}
        for figure, harmful, worst in (("recall", True, min), ("false_positives", False, max)):
            own = share(rows["untouched"], harmful)
            changes = {name: share(rows[name], harmful) - own for name in NAMES}
            said = row[figure]
            assert said["untouched"]["value"] == pytest.approx(own, abs=1e-5)
            assert said["against_none"]["value"] == pytest.approx(own - share(bare, harmful), abs=1e-5)
            assert said["mean_change"] == pytest.approx(sum(changes.values()) / len(changes), abs=1e-5)
            assert said["worst_change"] == pytest.approx(worst(changes.values()), abs=1e-5)
            assert changes[said["worst_attack"]] == pytest.approx(said["worst_change"], abs=1e-5)


def test_each_combination_was_judged_under_its_own_defences(compared):
    for name in COMBINATIONS:
        cells = json.loads((compared / name / "run.json").read_text())["cells"]
        assert {tuple(cell["defences"]) for cell in cells} == {() if name == "none" else tuple(name.split("+"))}
    # read as what they hide, most attacked texts get the answers of untouched ones
    unlike = {}
    for name in ("none", "fold+decode"):
        rows = stopped(compared, name)
        unlike[name] = sum(rows["homoglyphs"][id_] != was for id_, was in rows["untouched"].items())
    assert 2 * unlike["fold+decode"] < unlike["none"]


def test_tokens_are_counted_behind_the_policy(compared):
    tokens = {row["defences"]: row["tokens"] for row in json.loads((compared / FIGURES).read_text())["combinations"]}
    assert tokens["fold"] == pytest.approx(tokens["none"], rel=0.02)
    assert tokens["fold"] == tokens["fold+decode"] <= tokens["fold+decode+parts"]
    assert 1.8 < tokens["fold+decode+wording"] / tokens["none"] < 2.2


def test_what_was_judged_is_not_judged_again(compared, labels, policy, monkeypatch):
    before = (compared / FIGURES).read_bytes()
    monkeypatch.setattr(FakeEngine, "score", lambda self, requests: pytest.fail("there is nothing left to ask"))
    asked = Asked(("labels.csv",), tuple(map(find, NAMES)), 15, 1)
    compare([read_labelled(labels)], asked, policy, FAKE, compared, command="c")
    assert (compared / FIGURES).read_bytes() == before


def test_an_engine_that_remembers_is_asked_each_question_once():
    engine = FakeEngine([[0.1, 0.8, 0.1], EngineError("lost"), [0.7, 0.2, 0.1]])
    known = Remembering(engine)
    judge = moderator(engine)
    one, two, three = (judge.ask(judge.task(text, policy=policy())).requests()[0] for text in ("one", "two", "three"))
    first = known.score([one, two, one])
    assert first[0] == first[2] and isinstance(first[1], EngineError)
    assert known.score([three, one])[1] == first[0] and engine.seen == [one, two, three]
    assert (known.model_id, known.max_tokens, known.score([])) == ("fake", engine.max_tokens, [])


def test_the_command_prints_the_table_and_the_report_shows_it(a_run, labels, capsys, monkeypatch):
    monkeypatch.setattr("eval.__main__.ATTACKS", {name: find(name) for name in NAMES})
    out = a_run / "attacks"
    line = ["defences", "--set", str(labels), "--policy", "forum-comments", "--model", "fake", "--out", str(out)]
    assert main([*line, "--per-class", "6"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (out / TABLE).read_text().strip() and "| fold+decode+parts |" in printed.out
    assert "fold+decode+parts: casing under forum-comments with fake: 12 of 12" in printed.err
    assert main(["report", str(a_run)]) == 0
    shown = (a_run / "report.md").read_text(encoding="utf-8")
    assert (out / TABLE).read_text(encoding="utf-8").strip() in shown
    assert (out / "fold+decode" / "attacks.md").read_text(encoding="utf-8").strip() in shown


def test_the_default_measurement_keeps_to_its_time():
    """The sample is a fixed one, and small enough."""
    assert defences.PER_CLASS <= 50


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_committed_figures_are_of_the_committed_rows_the_model_and_the_attacks_that_are_here(name):
    folder = ROOT / "docs" / "report" / "attacks" / name
    hold_against_the_rows(folder)
    found = json.loads((folder / measure.FIGURES).read_text())
    assert found["model"] == f"embedded@{fingerprint(shipped('models') / 'embedded')}", "run `make eval`"
    assert found["defences"] == ([] if name == "none" else name.split("+"))
    policy = PolicyBook().get("self-reflection")
    per_class, seed = found["asked"]["per_class"], found["asked"]["seed"]
    untouched = sample([own_set(one) for one in found["asked"]["sets"]], policy, per_class, seed)
    for cell, _ in load(folder)[1]:
        here = untouched if cell["set"] == UNTOUCHED else under(find(cell["set"]), untouched, seed)
        assert cell["set_hash"] == here.hash and cell["policy_hash"] == policy.hash, "run `make eval`"
    assert {row["attack"] for row in found["attacks"]} == set(ATTACKS)


def test_the_committed_table_is_of_the_committed_figures():
    folder = ROOT / "docs" / "report" / "attacks"
    found = json.loads((folder / FIGURES).read_text())
    assert (folder / TABLE).read_text(encoding="utf-8") == as_markdown(defences.blocks(found))
    bare = stopped(folder, "none")["untouched"]
    for row in found["combinations"]:
        own = stopped(folder, row["defences"])["untouched"]
        assert row["recall"]["untouched"]["value"] == pytest.approx(share(own, True), abs=1e-5)
        cost = share(own, False) - share(bare, False)
        assert row["false_positives"]["against_none"]["value"] == pytest.approx(cost, abs=1e-5)
