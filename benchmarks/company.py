"""The same text in any company: how far scores move, and how often a decision flips.

`python -m benchmarks.company`. 500 comments of ours through the embedded model: cold, cached, each alone, all together,
in another order, and among half of the others; in float32 and bfloat16, on each kind of kernels that the machine has.
Fails if a score moves by more than 1e-3 in bfloat16 or 1e-5 in float32.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from benchmarks.measure import emit
from benchmarks.peers.setup import ROOT
from guard import Moderator
from guard.errors import ModelUnavailable
from guard.settings import load_settings
from guard.verdict import Verdict

NUM, POLICY = 500, "forum-comments"
MOST = {"bfloat16": 1e-3, "float32": 1e-5}


def comments() -> list[str]:
    rows = [json.loads(line) for line in (ROOT / "training" / "authored" / "comments.jsonl").read_text().splitlines()]
    return [row["text"] for row in rows[:NUM]]


def judged(dtype: str, kernels: str, texts: list[str]) -> dict[str, list[Verdict]]:
    """Verdicts in the order of the texts, by company."""
    moderator = Moderator.load(load_settings(dtype=dtype, kernels=kernels))
    tasks = [moderator.task(text, policy=POLICY) for text in texts]

    def shuffled(judge: Callable[[list[int]], list[Verdict]]) -> list[Verdict]:
        order = random.Random(1).sample(range(NUM), NUM)
        found = dict(zip(order, judge(order), strict=True))
        return [found[i] for i in range(NUM)]

    def many(order: list[int]) -> list[Verdict]:
        return moderator.judge_many([tasks[i] for i in order])

    cold = many(list(range(NUM)))  # the policy is computed in this call
    return {
        "cold": cold,
        "cached": many(list(range(NUM))),
        "alone": [moderator.judge_many([task])[0] for task in tasks],
        "other order": shuffled(many),
        "halves": shuffled(lambda order: many(order[: NUM // 2]) + many(order[NUM // 2 :])),
    }


def main() -> None:
    texts, faults = comments(), []
    cases: dict[str, dict[str, object]] = {}
    for kernels in ("native", "torch"):
        for dtype, most in MOST.items():
            try:
                found = judged(dtype, kernels, texts)
            except ModelUnavailable as cause:
                print(f"{kernels}: {cause}")
                continue
            moved = flips = 0.0
            for company, verdicts in found.items():
                pairs = list(zip(found["cold"], verdicts, strict=True))
                here = max(abs((a.score or 0.0) - (b.score or 0.0)) for a, b in pairs)
                errors = sum(verdict.score is None for verdict in verdicts)
                if errors:
                    faults.append(f"{kernels} {dtype} {company}: {errors} texts got no score")
                flipped = sum(a.decision != b.decision for a, b in pairs)
                moved, flips = max(moved, here), max(flips, flipped)
                print(f"{kernels} {dtype} {company}: largest difference {here:.1e}, {flipped} of {NUM} decisions flip")
            cases[f"{kernels} {dtype}"] = {"largest_difference": moved, "flips": int(flips)}
            if moved > most:
                faults.append(f"{kernels} {dtype}: a score moves by {moved:.1e}")
    emit("company", faults, comments=NUM, policy=POLICY, cases=cases)


if __name__ == "__main__":
    main()
