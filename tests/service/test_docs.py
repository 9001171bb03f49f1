"""docs/http.md against the service: its example runs, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guard.errors import STATUS, InvalidFile, InvalidSettings, ModelUnavailable, Overloaded, PromiseRefused
from guard.service.openai import ModerationRequest, Result
from guard.service.perspective import ATTRIBUTES, AnalyzeRequest, AnalyzeResponse
from guard.verdict import Verdict
from tests.service.support import Service

TEXT = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
NEVER_OVER_HTTP = {InvalidFile, InvalidSettings, ModelUnavailable, PromiseRefused}  # of other commands, or no start


def test_the_python_examples_run(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for example in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(example.replace("http://127.0.0.1:8080", service.url), {})
    verdict = service.moderator.judge("You fool", policy="forum-comments")
    toxicity = sum(verdict.category_scores[name] for name in ATTRIBUTES["TOXICITY"])
    assert capsys.readouterr().out == f"{not verdict.accepted} {verdict.category_scores['insult']}\n{toxicity}\n"


def test_the_table_of_errors_is_that_of_the_code() -> None:
    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `\w+` \| `(\w+)`", TEXT, re.MULTILINE)}
    leaves = {leaf: status for leaf, (status, _) in STATUS.items() if leaf not in NEVER_OVER_HTTP}
    expected = {(status, leaf.code) for leaf, status in leaves.items() if leaf is not Overloaded}
    assert rows == expected | {(429, "rate_limit_exceeded"), (500, "internal_error")}


def test_every_field_and_path_is_described(service: Service) -> None:
    described = set(re.findall(r"`([\w/{}]+)`", TEXT))
    told = {*AnalyzeRequest.model_fields, *AnalyzeResponse.model_fields, *ATTRIBUTES}
    assert described >= told
    assert described >= {*ModerationRequest.model_fields, *Result.model_fields, *Verdict.model_fields}
    assert all(path in TEXT for path in service.http.get("/openapi.json").json()["paths"] if "{" not in path)
