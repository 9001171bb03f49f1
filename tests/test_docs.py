"""The documents' code is run: Python blocks, console blocks with their outputs, YAML policies.

`console`: lines that begin with `$ ` are run; where output follows, it must be what was printed, numbers within 0.05
(another processor rounds otherwise). `sh`: not run here; each line must be one that the list below knows and that
another test or CI runs. `python`: the blocks of a page run one after the other in one namespace.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from guard.cli import app
from guard.policy import Policy

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+\.\d+")
ADDRESS = "http://127.0.0.1:8080"
# Lines of `sh` blocks, and who runs them instead.
RUN_ELSEWHERE = {
    "make bench": "too long for a test; tests/benchmarks holds the page to its figures",
    "make demo": "a new user's first command; CI's clean checkout sets up the same way",
    "make test": "this is it",
    "guard serve --host 127.0.0.1 --port 8080": "tests/service, and the `server` fixture below on a free port",
    "guard serve --assistant http://127.0.0.1:8000/v1": "tests/service/test_chat.py",
    "make eval": "tests/eval holds the page and the README to the committed report",
    "python -m eval": "tests/eval/test_main.py runs each command",
    "guard calibrate --labels my.csv": "tests/test_calibrate.py",
    "guard check --model FOLDER": "tests/engine/test_checkpoint.py loads checkpoints from folders",
    "guard plan": "tests/test_cli.py",
    "guard scan /shared/comments.csv --ray auto": "tests/scan/test_cluster.py",
    "guard scan sqlite:": "tests/scan/test_database.py",
    "guard scan postgresql:": "tests/scan/test_database.py",
    "guard report out/verdicts.jsonl --reviewed": "tests/report/test_report.py",
}


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def server():
    """`guard serve` on a free port: yields its address."""
    command = [str(Path(sys.executable).with_name("guard")), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield re.search(r"http://\S+", line)[0]
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python_blocks_run(page, server, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code.replace(ADDRESS, server), f"{page.name}", "exec"), namespace)


@pytest.mark.parametrize("page", pages_with("console"), ids=lambda page: page.name)
def test_console_blocks_print_what_they_show(page, server, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    (tmp_path / "out").mkdir()
    for code in blocks(page, "console"):
        for command, shown in _commands(code):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", command.replace(ADDRESS, server)], cwd=tmp_path, capture_output=True, text=True,
                env={**os.environ, "PATH": path, "COLUMNS": "120"}, timeout=300,
            )  # fmt: skip
            assert done.returncode in (0, 1), f"{command}\n{done.stderr}"
            if shown:
                assert _alike(done.stdout, shown), f"{command}\nprinted:\n{done.stdout}\nthe page shows:\n{shown}"


def _commands(code: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def _alike(printed: str, shown: str) -> bool:
    def words(text: str) -> list[str]:
        return NUMBER.sub("#", text).split()

    numbers = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=False)
    return words(printed) == words(shown) and all(abs(float(a) - float(b)) <= 0.05 for a, b in numbers)


@pytest.mark.parametrize("page", pages_with("yaml"), ids=lambda page: page.name)
def test_yaml_blocks_are_policies(page):
    for code in blocks(page, "yaml"):
        Policy.model_validate(yaml.safe_load(code))


@pytest.mark.parametrize("page", pages_with("sh"), ids=lambda page: page.name)
def test_sh_lines_are_run_elsewhere(page):
    for code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            command = " ".join(shlex.split(line, comments=True))
            assert any(command.startswith(known) for known in RUN_ELSEWHERE), f"who runs {command!r}?"


def test_every_language_of_a_block_is_tested():
    known = {"python", "console", "yaml", "sh", "text", "json"}
    assert {language for page in PAGES for language, _ in BLOCK.findall(page.read_text())} <= known


def test_every_command_is_documented_and_helped():
    documented = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    group = get_command(app)
    for name, command in group.commands.items():
        assert f"guard {name}" in documented, f"guard {name} is in no document"
        for part in getattr(command, "commands", {name: command}).values():
            assert part.help, f"guard {name} {part.name} has no help"
            for option in part.params:
                assert getattr(option, "help", None), f"guard {name} {part.name} {option.name} has no help"


def test_links_lead_somewhere():
    for page in [
        *PAGES,
        ROOT / "CONTRIBUTING.md",
        ROOT / "training" / "README.md",
        ROOT / "eval" / "sets" / "README.md",
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
