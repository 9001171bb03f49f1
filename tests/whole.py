"""`make test-all`: every test, those with other people's programs included, and docs/test-all.md with what came of it.

It ends with an error unless all of them ran: without a Chromium or LiteLLM's proxy it says which is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.screenshot import chromium

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "test-all.md"
CLIENTS = ("openai", "mistralai", "google-api-python-client", "langchain-core", "schemathesis", "playwright", "peft")


class Counts:
    """A pytest plug-in: how many tests had which outcome, by folder."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            parts = report.nodeid.split("::")[0].split("/")
            folder = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
            counts = self.found.setdefault(folder, {})
            counts[report.outcome] = counts.get(report.outcome, 0) + 1


def main() -> int:
    there = {
        "a Chromium": chromium(),
        "LiteLLM's proxy (GUARD_LITELLM)": shutil.which(os.environ.get("GUARD_LITELLM", "")),
    }
    missing = [name for name, at in there.items() if not at]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 2
    counts = Counts()
    folders = [str(ROOT / name) for name in ("tests", "guard", "training", "eval")]
    status = pytest.main(["-q", *folders], [counts])
    lines = [
        "# All tests, with other people's programs", "",
        "Written by `make test-all`: what `make test` runs, the page in a real Chromium, and LiteLLM's own proxy.", "",
        f"{datetime.now(UTC).date().isoformat()}, Python {platform.python_version()}, exit status {int(status)}; "
        + ", ".join(f"{name} {version(name)}" for name in CLIENTS) + ".", "",
        "| folder | passed | failed | skipped |", "|---|---|---|---|",
        *(f"| {folder} | {c.get('passed', 0)} | {c.get('failed', 0)} | {c.get('skipped', 0)} |"
          for folder, c in sorted(counts.found.items())),
    ]  # fmt: skip
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
