"""The page of figures says what its figures say, and nothing that did not hold is left out."""

from __future__ import annotations

import copy

import pytest

from benchmarks import report

FOUND = report.load(report.KEPT)


def test_the_page_is_what_its_figures_say():
    """After `make bench` run `make bench-report` and commit both."""
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.page(text, FOUND) == text


def test_what_did_not_hold_is_said_first():
    broken = copy.deepcopy(FOUND)
    broken["window"]["faults"] = ["attention is 1.2 times faster with the window"]
    assert "did not hold: window: attention is 1.2 times faster" in report.figures(broken).splitlines()[0]
    sound = {name: {**line, "faults": []} for name, line in FOUND.items()}
    assert "Everything that the benchmarks promise held" in report.figures(sound).splitlines()[0]


def test_every_plot_of_the_page_is_there():
    named = {part.split(")")[0] for part in report.PAGE.read_text(encoding="utf-8").split("](plots/")[1:]}
    assert named == {path.name for path in report.PLOTS.iterdir()}


@pytest.mark.parametrize("key", ["guard", "peers", "ceiling", "agreement", "machine"])
def test_the_scoring_line_has_the_agreed_keys(key):
    assert key in FOUND["scoring"]
    assert set(FOUND["scoring"]["peers"]) == {
        "hf-generate", "hf-prefix-cache", "openvino-genai", "ctranslate2", "llama-cpp",
    }  # fmt: skip
