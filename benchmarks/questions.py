"""Many questions about one content against one, on the reference model: what the tree saves.

`python -m benchmarks.questions`. Thirteen yes/no questions share their content, so their cost should follow the number
of distinct tokens: (content + 13 questions) / (content + 1 question). Fails above 1.15 times that, or if thirteen
questions of 8 tokens about contents of 200 cost more than 1.6 times one.
"""

from __future__ import annotations

import random
from functools import partial

from benchmarks.measure import FOLDER, emit, in_turns
from benchmarks.workload import prepare, random_ids
from guard.engine.engine import TorchEngine
from guard.engine.request import Request

ROUNDS = 5
MOST_OVERHEAD, MOST_RATIO = 1.15, 1.6
YES_NO = ((10,), (11,))
CASES = [(200, 8), (62, 8), (62, 12), (200, 16), (400, 8)]  # tokens of the content, of a question
NUMBERS = (1, 2, 4, 8, 13)


def main() -> None:
    policy = prepare(FOLDER).policy
    engine = TorchEngine.load(FOLDER / "checkpoint", dtype="bfloat16")
    draw = random.Random(3)
    faults: list[str] = []
    cases: dict[str, dict[str, float]] = {}
    for content, question in CASES:
        for num in (32, 1):  # a batch of comments, and one comment alone
            contents = [random_ids(draw, content) for _ in range(num)]
            questions = [random_ids(draw, question) for _ in range(max(NUMBERS))]
            asked = {
                str(n): [Request((policy, c, q), YES_NO, 2) for c in contents for q in questions[:n]] for n in NUMBERS
            }
            took = in_turns({n: partial(engine.score, requests) for n, requests in asked.items()}, ROUNDS)
            name = f"{num} contents of {content}, questions of {question}"
            ratio, tokens = took["13"] / took["1"], (content + 13 * question) / (content + question)
            cases[name] = {
                "ratio": round(ratio, 3),
                "tokens": round(tokens, 3),
                "overhead": round(ratio / tokens, 3),
                **{f"x{n}": round(t / took["1"], 3) for n, t in took.items()},
                "ms_per_content": round(1000 * took["13"] / num, 2),
            }
            print(name, cases[name], flush=True)
            if ratio / tokens > MOST_OVERHEAD:
                faults.append(f"{name}: {ratio / tokens:.2f} times what the tokens say")
            if (content, question) == (200, 8) and ratio > MOST_RATIO:
                faults.append(f"{name}: {ratio:.2f} times one question")
    emit("questions", faults, cases=cases)


if __name__ == "__main__":
    main()
