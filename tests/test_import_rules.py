"""Who may import whom (docs: DESIGN.md, "Import rules"), read from the sources; and that it holds when they are run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers"}
TORCH_FILES = {
    "adapters.py", "attention.py", "cache.py", "ceilings.py", "checkpoint.py", "engine.py", "flex.py", "generate.py",
    "layers.py", "linear.py", "model.py", "native.py", "quantized.py",
}  # fmt: skip
WEB = {"fastapi", "starlette", "uvicorn"}
PLAIN = {  # what these may import of ours
    "guard/errors.py": set(),
    "guard/resources.py": set(),
    "guard/item.py": {"guard.errors"},
    "guard/language.py": set(),
    "guard/passages.py": {"guard.tokenizer"},
    "guard/tokenizer.py": {"guard.errors"},
    "guard/calibration.py": {"guard.errors", "guard.item"},
    "guard/verdict.py": {"guard.errors", "guard.policy"},
    "guard/settings.py": {"guard.errors"},
}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name; also through importlib."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
            module = base if node.level else node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                yield str(node.args[0].value)


def within(module: str, *names: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def offences(folder: str, *names: str, but: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name_of(path)} imports {module}"
        for path in sources(folder)
        if not name_of(path).startswith(but or ("\0",))
        for module in imported(path)
        if within(module, *names)
    ]


def test_the_reader_of_imports_reads_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "guard" / "engine" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b, c\nfrom d import e\nfrom . import f\nfrom .g import h\nfrom ..i import j\n"
        "def x():\n    import k\n    importlib.import_module('l.m')\nif True:\n    from n import *\n"
    )
    assert set(imported(path)) >= {
        "a.b", "c", "d", "d.e", "guard.engine.f", "guard.engine.g", "guard.i", "guard.i.j", "k", "l.m", "n",
    }  # fmt: skip
    assert within("torch.nn", "torch") and not within("torchaudio", "torch")


def test_there_is_something_to_read():
    names = {name_of(path) for path in sources("guard")}
    assert {"guard/moderator.py", "guard/engine/engine.py", "guard/engine/tree.py", *PLAIN} <= names


def test_guard_imports_nothing_that_is_not_shipped_with_it():
    assert offences("guard", "eval", "training", "tests", "benchmarks") == []


def test_nobody_imports_eval_by_its_name():
    """It hides a builtin; it is run, never imported."""
    assert [o for folder in ("guard", "training") for o in offences(folder, "eval")] == []
    assert offences("tests", "eval", but=("tests/eval/",)) == []


def test_the_numbers_know_nothing_but_numbers():
    ours = {module for path in sources("guard/measure") for module in imported(path) if within(module, "guard")}
    assert ours and all(within(module, "guard.measure") for module in ours)


def test_scoring_asks_no_model():
    """It reads predictions: neither the moderator nor an engine is within its reach."""
    ours = {module for module in imported(ROOT / "eval" / "score.py") if within(module, "guard", "eval")}
    assert all(within(module, "guard.measure", "guard.labelled") for module in ours)


def test_torch_and_transformers_stay_with_the_engine():
    allowed = (*(f"guard/engine/{name}" for name in sorted(TORCH_FILES)), "guard/tune/")
    assert offences("guard", *HEAVY, but=allowed) == []


def test_the_web_stays_with_the_service():
    assert offences("guard", *WEB, but=("guard/service/",)) == []
    assert offences("training", *WEB) == []


def test_the_engine_knows_nothing_of_us_but_errors():
    assert [
        o for o in offences("guard/engine", "guard") if not within(o.split()[-1], "guard.engine", "guard.errors")
    ] == []


def test_what_the_engine_plans_with_is_plain_python():
    for name in ("tree", "request", "fake"):
        path = ROOT / "guard" / "engine" / f"{name}.py"
        assert [module for module in imported(path) if within(module, *HEAVY, "numpy", "safetensors")] == []


@pytest.mark.parametrize("name", PLAIN)
def test_the_parts_know_only_what_they_need(name: str):
    ours = {module for module in imported(ROOT / name) if within(module, "guard")}
    assert {module for module in ours if not within(module, *PLAIN[name], "\0")} == set()


def test_the_moderator_knows_the_engine_by_its_protocol_alone():
    engine = {m for m in imported(ROOT / "guard" / "moderator.py") if within(m, "guard.engine")}
    assert engine and all(within(module, "guard.engine.request") for module in engine)


def test_only_loading_names_the_engine():
    inside = ("guard/engine/", "guard/loading.py")
    concrete = tuple(f"guard.engine.{name.removesuffix('.py')}" for name in sorted(TORCH_FILES))
    assert offences("guard", *concrete, but=inside) == []
    imports_torch = ast.parse((ROOT / "guard" / "loading.py").read_text())
    top = [node for node in imports_torch.body if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in top if within(node.module or "", *concrete)], "only when a model is loaded"


def test_prompts_are_data():
    files = [path for path in (ROOT / "prompts").rglob("*") if path.is_file()]
    assert files and {path.suffix for path in files} <= {".yaml", ".yml", ".md", ".txt"}


_BLOCKED = """
import sys
blocked = {"torch", "transformers", "fastapi", "starlette", "uvicorn"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is not to be imported here")
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


@pytest.mark.parametrize("module", ["guard", "guard.cli", "guard.moderator", "guard.loading"])
def test_importing_needs_neither_torch_nor_the_web(module: str):
    done = run(f"{_BLOCKED}\nimport {module}\nprint(sorted(blocked & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("module", ["guard", "guard.cli"])
def test_importing_loads_neither_torch_nor_the_web(module: str):
    done = run(f"{_BLOCKED.replace('sys.meta_path', '[]')}\nimport {module}\nprint(sorted(blocked & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_whole_pipeline_runs_without_torch():
    code = (
        f"{_BLOCKED}\nfrom guard.settings import Settings\nfrom guard import Moderator\n"
        "judge = Moderator.load(Settings.model_construct(model='fake'))\n"
        "print(judge.judge('You fool', policy='forum-comments').model)"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "fake"), done.stderr
