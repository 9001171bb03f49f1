"""Figures on pages are those that were measured, on the model that ships."""

from __future__ import annotations

import json

import pytest

from guard.engine.checkpoint import fingerprint
from guard.resources import shipped
from training import report
from training.config import Config
from training.sources import SOURCES


@pytest.fixture(scope="module")
def figures():
    return json.loads(report.FIGURES.read_text(encoding="utf-8"))


def test_pages_say_what_was_measured(figures):
    for path, text in report.pages(figures).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} has drifted: run `python -m training.report`"


def test_the_readme_has_a_place_for_figures():
    assert report.readme_block.__doc__ and "AUROC" in report.README.read_text(encoding="utf-8")


def test_figures_belong_to_the_model_that_ships(figures):
    folder = shipped("models") / "embedded"
    assert figures["model"] == f"embedded@{fingerprint(folder)}", "run `make figures` after changing the model"


def test_the_checkpoint_is_small_and_complete():
    folder = shipped("models") / "embedded"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "calibration.json"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 48 * 2**20


def test_its_architecture_is_mistral_with_a_window():
    config = json.loads((shipped("models") / "embedded" / "config.json").read_text())
    assert config["model_type"] == "mistral" and config["hidden_act"] == "silu"
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["sliding_window"] == Config().sliding_window


def test_every_set_that_was_trained_on_is_licensed_and_attributed(figures):
    public = {name for name in figures["trained_on"] if not name.startswith("authored")}
    assert public <= set(report.LICENCES)
    assert set(SOURCES) <= set(report.LICENCES)
