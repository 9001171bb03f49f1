"""`python -m benchmarks` (what `make bench` runs): every benchmark in a process of its own, then their JSON lines.

The lines also go to out/bench/results.jsonl; `python -m benchmarks.report` makes docs/performance.md of them. The exit
status is 1 if anything that a benchmark promises did not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.measure import FOLDER

BENCHMARKS = (
    "scoring", "questions", "latency", "window", "stream", "heads", "company", "embedded", "weights", "load", "release",
    "scan",
)  # fmt: skip


def main() -> None:
    lines: list[str] = []
    for name in BENCHMARKS:
        start = time.monotonic()
        print(f"== {name}", flush=True)
        command = [sys.executable, "-u", "-m", f"benchmarks.{name}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        last = ""
        for line in process.stdout:
            last = line.strip() or last
            print(line, end="", flush=True)
        process.wait()
        if not last.startswith("{"):
            last = json.dumps({"benchmark": name, "faults": [f"ended with status {process.returncode} and no figures"]})
        lines.append(last)
        print(f"== {name} took {time.monotonic() - start:.0f} s", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "results.jsonl").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    raise SystemExit(any(json.loads(line)["faults"] for line in lines))


if __name__ == "__main__":
    main()
