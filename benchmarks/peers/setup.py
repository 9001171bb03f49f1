"""Makes the peers ready: one virtual environment, and the checkpoint in each engine's format.

`python -m benchmarks.peers.setup FOLDER`, where FOLDER is what `benchmarks.workload.prepare` filled. What is already
there and was made from the same requirements and checkpoint is kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "out" / "venvs" / "peers"
PEERS = ROOT / "benchmarks" / "requirements-peers.txt"
WITHOUT_DEPENDENCIES = ROOT / "benchmarks" / "requirements-openvino-export.txt"
# llama.cpp: kernels for this machine's CPU, and the library alone
_LEFT_OUT = ("LLAVA_BUILD", *(f"LLAMA_BUILD_{part}" for part in ("TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")))
CMAKE_ARGS = " ".join(["-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF", *(f"-D{name}=OFF" for name in _LEFT_OUT)])


def run(*command: str | Path) -> None:
    variables = os.environ | {"CMAKE_ARGS": CMAKE_ARGS, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["nice", "-n", "19", *command], cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(done.stdout.decode(errors="replace")[-4000:] + f"\nfailed: {' '.join(map(str, command))}")


def install(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "-q")
    run(*pip, "-r", PEERS)
    run(*pip, "--no-deps", "-r", WITHOUT_DEPENDENCIES)


def export_openvino(checkpoint: Path, folder: Path) -> None:
    command = (ENVIRONMENT / "bin" / "optimum-cli", "export", "openvino", "--model", checkpoint)
    task = ("--task", "text-generation-with-past")
    run(*command, *task, folder / "bf16")  # with the checkpoint's own weights
    run(*command, *task, "--weight-format", "int8", folder / "int8")


def export_ctranslate2(checkpoint: Path, folder: Path) -> None:
    command = (ENVIRONMENT / "bin" / "ct2-transformers-converter", "--model", checkpoint, "--output_dir")
    folder.mkdir()
    for kind in ("float32", "int8"):
        run(*command, folder / kind, "--quantization", kind)


def export_llama_cpp(checkpoint: Path, folder: Path) -> None:
    run(ENVIRONMENT / "bin" / "python", "-m", "benchmarks.peers.llama_cpp_export", checkpoint, folder)


def ensure(folder: Path, sources: tuple[Path, ...], make: Callable[[], None]) -> None:
    """Makes `folder` anew unless it was made from `sources` as they are now."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    stamp = folder / "made-from"
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        print(f"kept {folder}")
        return
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    make()
    stamp.write_text(digest.hexdigest())
    print(f"made {folder} in {time.monotonic() - start:.0f} s")


def main(folder: Path) -> None:
    checkpoint = folder / "checkpoint"
    ensure(ENVIRONMENT, (PEERS, WITHOUT_DEPENDENCIES), lambda: install(ENVIRONMENT))
    exports = {"openvino_genai": export_openvino, "ctranslate2": export_ctranslate2, "llama_cpp": export_llama_cpp}
    for name, export in exports.items():
        target = folder / name
        ensure(
            target,
            (checkpoint / "model.safetensors", checkpoint / "config.json"),
            lambda e=export, t=target: e(checkpoint, t),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
