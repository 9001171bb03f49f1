"""The figures of a measurement of attacks, counted again from its rows."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.newcombe import newcombe

UNTOUCHED = "untouched"


def recounted(folder: Path) -> dict:
    """The figures from the saved rows, item by item and without any of the code that made them."""
    manifest = json.loads((folder / "run.json").read_text())
    rows = {
        cell["set"]: {row["id"]: row for row in pl.read_parquet(folder / "predictions" / cell["file"]).to_dicts()}
        for cell in manifest["cells"]
    }
    found = {}
    for name, attacked in rows.items():
        found[name] = {}
        for figure, harmful in (("recall", True), ("false_positives", False)):
            both = before = after = n = 0
            for id_, row in rows["untouched"].items():
                if row["harmful"] != harmful:
                    continue
                was, now = row["decision"] != "allow", attacked[id_]["decision"] != "allow"
                n, both, before, after = n + 1, both + (was and now), before + was, after + now
            found[name][figure] = n, both, before, after
        found[name]["unscored"] = sum(row["score"] is None for row in attacked.values())
    return found


def hold_against_the_rows(folder: Path) -> None:
    counted, figures_ = recounted(folder), json.loads((folder / "attacks.json").read_text())
    assert {row["attack"] for row in figures_["attacks"]} == set(counted) - {UNTOUCHED}
    for row in figures_["attacks"]:
        assert row["unscored"] == counted[row["attack"]]["unscored"]
        for name in ("recall", "false_positives"):
            n, both, before, after = counted[row["attack"]][name]
            said = row[name]
            assert said["before"]["value"] == figures_[name]["value"] == pytest.approx(before / n, abs=1e-6)
            assert said["after"]["value"] == pytest.approx(after / n, abs=1e-6)
            assert said["change"]["value"] == pytest.approx((after - before) / n, abs=2e-6)
            assert said["before"]["n"] == said["after"]["n"] == said["change"]["n"] == n
            low, _, high = newcombe(both, before - both, after - both, n - before - after + both)
            assert said["change"]["low"] <= low + 1e-5 and high - 1e-5 <= said["change"]["high"], "families widen it"
    for name in ("recall", "false_positives"):
        changes = [(counted[a][name][3] - counted[a][name][2]) / counted[a][name][0] for a in counted if a != UNTOUCHED]
        assert figures_["mean_change"][name] == pytest.approx(sum(changes) / len(changes), abs=1e-5)
    lost = [row["recall"]["change"]["value"] for row in figures_["attacks"]]
    assert lost == sorted(lost), "the dearest attack comes first"
