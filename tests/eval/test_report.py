"""The report: one page that needs nothing else, in which no text of an item can act."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval import report
from eval.__main__ import filled
from eval.run import load, score_run
from eval.score import Options
from guard.labelled import read_labelled

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(a_run, labels, monkeypatch):
    monkeypatch.setattr(report, "WORST", 100)
    found = read_labelled(labels)
    scores = score_run(a_run, Options(), [found])
    frames = {cell["file"]: frame for cell, frame in load(a_run)[1]}
    return report.blocks(scores, frames, {(found.name, one.id): one for one in found.items})


def test_nothing_is_fetched_and_everything_is_closed(page):
    class Reader(HTMLParser):
        open: list[str] = []
        seen: set[str] = set()

        def handle_starttag(self, tag, attrs):
            self.seen.add(tag)
            assert not any(name in ("src", "onload", "onclick", "data") for name, _ in attrs)
            assert not any(name == "href" and value.startswith("http") for name, value in attrs if value)
            if tag not in ("meta",):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    text = report.as_html(page)
    Reader().feed(text)
    assert not Reader.open and {"svg", "table", "details"} <= Reader.seen and "script" not in Reader.seen


def test_texts_are_escaped_behind_a_click_and_only_there(page):
    text = report.as_html(page)
    assert "<b>bold" not in text and "\u202e" not in text
    assert re.search(r"<details>.*?&lt;b&gt;bold&lt;/b&gt; &amp; \\u202e", text, re.DOTALL)
    assert "bold" not in report.as_markdown(page)


def test_both_views_the_reference_and_the_hashes_are_there(page, a_run):
    text = report.as_markdown(page)
    for words in ("acceptable positive", "harmful positive", "99.4 %", "95.6 %", "2310.06825", "python -m eval run"):
        assert words in text
    cell = load(a_run)[0]["cells"][0]
    assert cell["set_hash"] in text and cell["policy_hash"] in text


def test_the_same_run_gives_the_same_page(page, a_run, labels):
    found = read_labelled(labels)
    frames = {cell["file"]: frame for cell, frame in load(a_run)[1]}
    again = report.blocks(score_run(a_run, Options()), frames, {(found.name, one.id): one for one in found.items})
    assert report.as_html(again) == report.as_html(page)


def test_an_undefined_figure_is_a_dash_with_its_reason():
    assert report.estimate({"value": None, "low": None, "high": None, "n": 0, "reason": "nothing"}) == "– (nothing)"
    assert (
        report.estimate({"value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "reason": None})
        == "50.0 % (25.0–75.0), n = 8"
    )


def test_the_readme_quotes_the_committed_report():
    """The committed predictions, scored again, are the committed figures and the README's."""
    import json

    folder = ROOT / "docs" / "report"
    scores = json.loads((folder / "scores.json").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(readme, scores) == readme and "standard + adversarial" in report.readme_block(scores)


def test_the_committed_report_is_of_the_model_and_the_sets_that_are_here():
    from eval.sets import own_set
    from guard.engine.checkpoint import fingerprint
    from guard.resources import shipped

    model = f"embedded@{fingerprint(shipped('models') / 'embedded')}"
    for cell, _ in load(ROOT / "docs" / "report")[1]:
        assert cell["model"] == model and cell["set_hash"] == own_set(cell["set"]).hash, "run `make eval`"
