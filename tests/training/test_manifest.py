"""A stage runs when its inputs have changed, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training import manifest
from training.config import Config
from training.manifest import Stage


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("data", "work", "out", "authored"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "rows.txt").write_text("a\n")
    return replace(
        Config(), root=tmp_path, manifest=tmp_path / "manifest.json",
        **{name: tmp_path / name for name in ("data", "work", "out", "authored")},
    )  # fmt: skip


class Work:
    """Two stages: the second one reads what the first one leaves."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stages = {
            "first": Stage(
                self._first, lambda c: [c.data / "rows.txt"], lambda c: [c.work / "upper.txt"], ("tune_steps",)
            ),
            "second": Stage(self._second, lambda c: [c.work / "upper.txt"], lambda c: [c.out / "length.txt"]),
        }

    def _first(self, config: Config, _inputs: str) -> None:
        self.ran.append("first")
        (config.work / "upper.txt").write_text((config.data / "rows.txt").read_text().upper())

    def _second(self, config: Config, _inputs: str) -> None:
        self.ran.append("second")
        (config.out / "length.txt").write_text(str(len((config.work / "upper.txt").read_text())))

    def again(self, config: Config) -> list[str]:
        self.ran.clear()
        manifest.run(self.stages, list(self.stages), config)
        return list(self.ran)


def test_only_what_is_stale_runs(config: Config) -> None:
    work = Work()
    assert work.again(config) == ["first", "second"]
    assert work.again(config) == []
    (config.data / "rows.txt").write_text("b\n")
    assert work.again(config) == ["first", "second"]
    (config.data / "rows.txt").write_text("B\n")  # upper-cased it is the same
    assert work.again(config) == ["first"]


def test_a_setting_counts_and_others_do_not(config: Config) -> None:
    work = Work()
    work.again(config)
    assert work.again(replace(config, tune_steps=3)) == ["first"]
    assert work.again(replace(config, tune_steps=3, vocab_size=7)) == []


def test_an_output_that_was_touched_or_removed_is_made_again(config: Config) -> None:
    work = Work()
    work.again(config)
    (config.out / "length.txt").write_text("99")
    assert work.again(config) == ["second"]
    (config.work / "upper.txt").unlink()
    with pytest.raises(FileNotFoundError):
        manifest.run(work.stages, ["second"], config)
    assert work.again(config) == ["first"]


def test_names_do_not_depend_on_where_the_folders_lie(config: Config) -> None:
    inputs = manifest.inputs_of(Work().stages["first"], config)
    assert set(inputs) == {"seed", "tune_steps", "data/rows.txt"}
