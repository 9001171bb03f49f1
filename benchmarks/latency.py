"""One short comment under a cached policy against one bare forward pass of its tokens.

`python -m benchmarks.latency`. The bare pass reads the comment and the question alone, no policy before them: through
transformers (last logits only) and through our own layers. Fails above 1.3 times the faster of the two, or if the
embedded model takes more than 15 ms from text to verdict.
"""

from __future__ import annotations

import random
from functools import partial

import torch
from transformers import AutoModelForCausalLM

from benchmarks.measure import FOLDER, emit, in_turns
from benchmarks.workload import prepare, random_ids
from guard import Moderator
from guard.engine.engine import TorchEngine
from guard.engine.request import Request
from guard.engine.tree import Plan, plan

ROUNDS = 41
MOST_RATIO, MOST_MS = 1.3, 15.0
COMMENT = "Thanks, that fixed it for me, you are a legend."


def main() -> None:
    work = prepare(FOLDER)
    engine = TorchEngine.load(FOLDER / "checkpoint", dtype="bfloat16")
    reference = AutoModelForCausalLM.from_pretrained(FOLDER / "checkpoint", dtype=torch.bfloat16)
    draw, faults = random.Random(5), []
    cases: dict[str, dict[str, float]] = {}
    for length in (8, 20, 62):
        content = random_ids(draw, length)
        request = Request((work.policy, content, work.question), work.labels, 2)
        bare = plan([Request((work.policy, content, work.question), work.labels, 2)])
        bare.positions[:] = range(len(bare.tokens))
        ids = torch.tensor([[*content, *work.question]])

        def transformers_pass(ids: torch.Tensor = ids) -> None:
            with torch.inference_mode():
                reference(ids, use_cache=False, logits_to_keep=1)

        def our_pass(made: Plan) -> None:
            engine._model.log_probs(engine._model.hidden(made, None, 0))

        took = in_turns(
            {
                "guard": partial(engine.score, [request]),
                "transformers": transformers_pass,
                "our layers": partial(our_pass, bare),
            },
            ROUNDS,
        )
        ratio = took["guard"] / min(took["transformers"], took["our layers"])
        cases[str(length)] = {**{f"{n} ms": round(1000 * t, 2) for n, t in took.items()}, "ratio": round(ratio, 3)}
        print(length, cases[str(length)], flush=True)
        if ratio > MOST_RATIO:
            faults.append(f"content of {length} tokens: {ratio:.2f} times the bare pass")

    moderator = Moderator.load()
    task = moderator.task(COMMENT, policy="forum-comments")
    embedded = 1000 * in_turns({"embedded": lambda: moderator.judge_many([task])}, ROUNDS)["embedded"]
    if embedded > MOST_MS:
        faults.append(f"the embedded model takes {embedded:.1f} ms")
    emit("latency", faults, cases=cases, embedded_ms=round(embedded, 2))


if __name__ == "__main__":
    main()
