"""Stability: what flips is what the engine makes flip, and the figures are those of the saved rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from eval.__main__ import main
from eval.report import as_markdown
from eval.run import Source
from eval.stability import (
    ALONE,
    CHANGES,
    FIGURES,
    NEAR,
    REVERSED,
    SHUFFLED,
    TABLE,
    WORDING,
    beside_headline,
    blocks,
    figures,
    measure,
    orders,
    part,
)
from guard.engine.fake import FakeEngine
from guard.errors import EngineError, InvalidFile
from guard.labelled import read_labelled
from guard.measure.intervals import wilson
from guard.moderator import Moderator
from guard.policy import FittedCalibration, Policy, PolicyBook
from guard.resources import shipped
from guard.settings import Settings
from guard.tokenizer import load_tokenizer
from tests.newcombe import newcombe

FAKE = Settings(model="fake")
TOKENIZER = load_tokenizer(shipped("models") / "embedded")


class Scripted(FakeEngine):
    """Every item is harmful to the degree that `of(requests, request)` says, or gets the error that it gives."""

    def __init__(self, of):
        super().__init__()
        self._of = of
        self.asked = []

    def score(self, requests):
        self.asked.append(requests)
        return [self._answered(self._of(requests, request), len(request.labels) - 1) for request in requests]

    @staticmethod
    def _answered(harm, categories):
        if isinstance(harm, EngineError):
            return harm
        return (math.log(1 - harm), *[math.log(harm / categories)] * categories)


def by_text(requests, request):
    """A degree between .05 and .95 that depends on the text alone."""
    return 0.05 + 0.9 * (sum(request.segments[1]) % 100) / 100


def measured(tmp_path, labels, policy, engine, **change):
    return measure(
        [Source(read_labelled(labels), "labels.csv")], policy, FAKE, tmp_path / "stability",
        **{"command": "c", "per_class": 15, "load": lambda s: Moderator(engine, TOKENIZER, settings=s), **change},
    )  # fmt: skip


def flips(found) -> dict[str, float]:
    return {row["change"]: row["flips"]["value"] for row in found["changes"]}


@pytest.fixture
def folder(tmp_path, labels, policy):
    """A measurement with the engine that answers by hash of all that it reads."""
    measured(tmp_path, labels, policy, FakeEngine())
    return tmp_path / "stability"


def test_an_engine_that_reads_the_text_alone_never_flips(tmp_path, labels, policy):
    found = measured(tmp_path, labels, policy, Scripted(by_text))
    assert flips(found) == dict.fromkeys(CHANGES, 0) and found["near"] > 0
    for row in found["changes"]:
        assert row["score"] == {"mean": 0, "largest": 0, "n": found["items"]} and row["flips_near"]["value"] == 0
        assert row["recall"]["change"]["value"] == row["false_positives"]["change"]["value"] == 0


def test_an_engine_that_heeds_the_order_of_categories_flips_with_it_alone(tmp_path, labels, policy):
    given = [TOKENIZER.encode(category.name) for category in policy.categories]

    def stops_in_another_order(requests, request):
        return 0.1 if list(map(list, request.labels[1:])) == given else 0.8

    found = measured(tmp_path, labels, policy, Scripted(stops_in_another_order))
    assert flips(found) == {ALONE: 0, REVERSED: 1, SHUFFLED: 1, WORDING: 0}
    mixed = found["changes"][2]
    assert (mixed["harmful_now_stopped"], mixed["acceptable_now_stopped"]) == (15, 15)
    assert mixed["harmful_now_missed"] == mixed["acceptable_now_accepted"] == 0
    assert mixed["score"] == {"mean": 0.7, "largest": 0.7, "n": 30}
    assert mixed["recall"]["change"]["value"] == mixed["false_positives"]["change"]["value"] == 1
    assert found["near"] == 0 and mixed["flips_near"]["reason"] == "no score is near the threshold"
    assert "– (no score is near the threshold)" in as_markdown(blocks(found))


def test_an_engine_that_heeds_its_batch_flips_alone_alone(tmp_path, labels, policy):
    engine = Scripted(lambda requests, request: 0.4 if len(requests) == 1 else 0.55)
    found = measured(tmp_path, labels, policy, engine)
    assert flips(found) == {ALONE: 1, REVERSED: 0, SHUFFLED: 0, WORDING: 0}
    assert found["near"] == 30 and found["changes"][0]["flips_near"]["value"] == 1
    assert (found["changes"][0]["harmful_now_missed"], found["changes"][0]["acceptable_now_accepted"]) == (15, 15)
    assert [len(requests) for requests in engine.asked] == [30, *[1] * 30, 30, 30, 30]


def test_an_engine_that_heeds_the_wording_flips_with_it_alone(tmp_path, labels, policy):
    engine = Scripted(lambda requests, request: 0.9 if request.segments[2] == engine.asked[0][0].segments[2] else 0.2)
    assert flips(measured(tmp_path, labels, policy, engine)) == {ALONE: 0, REVERSED: 0, SHUFFLED: 0, WORDING: 1}
    asked = [TOKENIZER.decode(list(engine.asked[at][0].segments[2])) for at in (0, -1)]
    wordings = [(shipped("prompts") / name / "comment.yaml").read_text() for name in ("templates", "second")]
    assert all(question.strip()[:20].lower() in page.lower() for question, page in zip(asked, wordings, strict=True))
    with_both = measured(
        tmp_path / "both", labels, policy, engine, load=lambda s: Moderator(
            engine, TOKENIZER, settings=s.model_copy(update={"defences": ("wording",)})
        ),
    )  # fmt: skip
    assert with_both["changes"][-1]["score"]["largest"] == pytest.approx(0.35), "the mean of both, and the second alone"


def test_an_item_that_could_not_be_judged_is_counted_and_counts_as_stopped(tmp_path, labels, policy):
    lost = []

    def fails_once_alone(requests, request):
        if len(requests) == 1 and not lost:
            lost.append(request)
            return EngineError("lost")
        return 0.1

    found = measured(tmp_path, labels, policy, Scripted(fails_once_alone))
    alone, *others = found["changes"]
    assert alone["unscored"] == 1 and alone["score"]["n"] == 29 and alone["flips"]["value"] == 0.033333
    assert alone["harmful_now_stopped"] + alone["acceptable_now_stopped"] == 1
    assert [row["unscored"] for row in others] == [0, 0, 0] and found["unscored"] == 0
    assert as_markdown(blocks(found)).count("| 1 |\n") == 1


def test_where_nothing_was_judged_no_score_moved(tmp_path, labels, policy):
    found = measured(tmp_path, labels, policy, Scripted(lambda requests, request: EngineError("lost")))
    assert found["unscored"] == 30 and flips(found) == dict.fromkeys(CHANGES, 0)
    assert found["changes"][0]["score"] == {"mean": None, "largest": None, "n": 0}
    assert as_markdown(blocks(found)).count("– (no item has two scores)") == 4


def hold_against_the_rows(folder: Path, threshold: float) -> None:
    """Every figure, recounted from the saved rows item by item without any of the code that made them."""
    rows = {
        path.parent.parent.name: {row["id"]: row for row in pl.read_parquet(path).to_dicts()}
        for path in folder.glob("*/predictions/*.parquet")
    }
    found = json.loads((folder / FIGURES).read_text())
    untouched = rows.pop("untouched")
    assert [row["change"] for row in found["changes"]] == [name for name in CHANGES if name in rows]
    assert len(rows) == len(found["changes"]) and found["items"] == len(untouched)
    near = {id_ for id_, row in untouched.items() if row["score"] is not None and abs(row["score"] - threshold) <= NEAR}
    assert found["near"] == len(near) > 0
    for said in found["changes"]:
        after = rows[said["change"]]
        assert after.keys() == untouched.keys()
        moves = {True: [], False: []}  # by harmful: (was stopped, is stopped)
        for id_, row in untouched.items():
            moves[row["harmful"]].append((row["decision"] != "allow", after[id_]["decision"] != "allow"))
        changed = {id_ for id_, row in untouched.items()
                   if (row["decision"] == "allow") != (after[id_]["decision"] == "allow")}  # fmt: skip
        for name, hits, n in (("flips", len(changed), len(untouched)), ("flips_near", len(changed & near), len(near))):
            assert said[name]["n"] == n and said[name]["value"] == pytest.approx(hits / n, abs=1e-6)
            low, high = wilson(hits, n)
            assert said[name]["low"] <= low + 1e-6 and high - 1e-6 <= said[name]["high"], "families widen it"
        assert said["harmful_now_missed"] == moves[True].count((True, False))
        assert said["harmful_now_stopped"] == moves[True].count((False, True))
        assert said["acceptable_now_stopped"] == moves[False].count((False, True))
        assert said["acceptable_now_accepted"] == moves[False].count((True, False))
        for name, harmful in (("recall", True), ("false_positives", False)):
            four = [moves[harmful].count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
            low, change, high = newcombe(*four)
            assert said[name]["change"]["value"] == pytest.approx(change, abs=1e-6)
            assert said[name]["change"]["low"] <= low + 1e-5 and high - 1e-5 <= said[name]["change"]["high"]
        moved = [abs(after[id_]["score"] - row["score"]) for id_, row in untouched.items()]
        assert said["score"]["mean"] == pytest.approx(sum(moved) / len(moved), abs=1e-6)
        assert said["score"]["largest"] == pytest.approx(max(moved), abs=1e-6)


def test_the_table_is_what_the_saved_rows_say(folder, policy):
    hold_against_the_rows(folder, policy.threshold)
    found = json.loads((folder / FIGURES).read_text())
    assert any(row["flips"]["value"] for row in found["changes"])
    page = (folder / TABLE).read_text(encoding="utf-8")
    assert page == as_markdown(blocks(found)) == as_markdown(part(folder))
    assert "seed" in page and f"threshold 0.5: {found['near']}." in page
    assert all(f"\n| {name} | {what} |" in page for name, what in CHANGES.items())


def test_intervals_are_wilsons_where_items_stand_alone(tmp_path, labels, policy):
    path = tmp_path / "alone.csv"
    pl.read_csv(labels).drop("group").write_csv(path)
    for row in measured(tmp_path, path, policy, FakeEngine())["changes"]:
        low, high = wilson(row["flips"]["value"] * 30, 30)
        assert (row["flips"]["low"], row["flips"]["high"]) == pytest.approx((low, high), abs=1e-5)


def test_another_order_is_the_same_policy_otherwise():
    for policy in PolicyBook():
        policy = policy.model_copy(update={"calibration": FittedCalibration(model="m")})
        found = orders(policy, 1)
        assert found == orders(policy, 1)
        for other in found.values():
            assert other.categories != policy.categories and other.hash != policy.hash
            assert sorted(other.categories, key=policy.categories.index) == list(policy.categories)
            Policy.model_validate(other.model_dump())
            back = other.model_copy(update={"categories": policy.categories})
            assert back == policy and back.hash == policy.hash
        assert len({other.hash for other in found.values()}) == len(found) == min(2, len(policy.categories) - 1)


def test_a_policy_with_few_categories_has_few_orders(tmp_path, labels, policy):
    one, two = (policy.model_copy(update={"categories": policy.categories[:n]}) for n in (1, 2))
    assert orders(one, 1) == {} and list(orders(two, 1)) == [REVERSED]
    path = tmp_path / "few.csv"
    rows = pl.read_csv(labels).filter(pl.col("label").is_in(["acceptable", one.categories[0].id]))
    rows.write_csv(path)
    assert list(flips(measured(tmp_path, path, one, FakeEngine()))) == [ALONE, WORDING]


def test_what_was_judged_is_not_judged_again(folder, tmp_path, labels, policy):
    def asleep(requests, request):
        raise AssertionError("there is nothing left to ask")

    before = (folder / FIGURES).read_bytes()
    measured(tmp_path, labels, policy, Scripted(asleep))
    assert (folder / FIGURES).read_bytes() == before
    with pytest.raises(AssertionError, match="nothing left"):
        measured(tmp_path, labels, policy, Scripted(asleep), seed=2)


def test_a_killed_measurement_goes_on_change_by_change(tmp_path, labels, policy):
    class Killed(Exception):
        pass

    def stop_at(what, done, of):
        if what.startswith(REVERSED):
            raise Killed

    with pytest.raises(Killed):
        measured(tmp_path, labels, policy, FakeEngine(), on_progress=stop_at)
    folder = tmp_path / "stability"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/predictions/*.parquet")}
    assert sorted(path.parent.parent.name for path in kept) == [ALONE, "untouched"]
    measured(tmp_path, labels, policy, FakeEngine())
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
    hold_against_the_rows(folder, policy.threshold)


def test_rows_of_other_items_are_refused(folder):
    frames = {path.parent.parent.name: pl.read_parquet(path) for path in folder.glob("*/predictions/*.parquet")}
    frames[REVERSED] = frames[REVERSED].with_columns(harmful=~pl.col("harmful"))
    with pytest.raises(InvalidFile, match="not of the items"):
        figures(frames, 0.5)


def test_the_command_measures_prints_and_goes_on(tmp_path, labels, policy, capsys):
    out = tmp_path / "out"
    line = [
        "stability", "--set", str(labels), "--policy", "forum-comments", "--model", "fake", "--out", str(out),
        "--per-class", "10",
    ]  # fmt: skip
    assert main(line) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (out / TABLE).read_text().strip() and "| second-wording |" in printed.out
    assert "alone under forum-comments with fake: 20 of 20" in printed.err
    assert main(line) == 0 and capsys.readouterr().out == printed.out
    hold_against_the_rows(out, policy.threshold)


def test_the_report_of_a_run_shows_what_was_measured_beside_it(a_run, folder):
    assert main(["report", str(a_run)]) == 0
    without = (a_run / "report.md").read_text(encoding="utf-8")
    folder.rename(a_run / "stability")
    assert main(["report", str(a_run)]) == 0
    shown = (a_run / "report.md").read_text(encoding="utf-8")
    whole = (a_run / "stability" / TABLE).read_text(encoding="utf-8").strip()
    sentence = as_markdown(beside_headline(a_run / "stability")).strip()
    assert shown.index("## In short") < shown.index(sentence) < shown.index("The reference figures")
    assert shown.replace(f"{whole}\n\n", "").replace(f"{sentence}\n\n", "") == without
