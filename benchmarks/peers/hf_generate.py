"""transformers' `generate`, the whole prompt of every content anew: the obvious thing to do, and so the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from benchmarks.peers.serve import THREADS, Peer, batches, serve
from benchmarks.workload import Ids, Work

BATCH = 1


class HfGenerate(Peer):
    name = "hf_generate"
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    precision = "bf16"
    settings = f"generate(max_new_tokens=1), sdpa, batches of {BATCH}"

    def __init__(self, folder: Path, work: Work, dtype: str) -> None:
        torch.set_num_threads(THREADS)
        self.work = work
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.bfloat16)
        self.model.eval()

    def decide(self, contents: Sequence[Ids]) -> list[int]:
        decisions = [0] * len(contents)
        for batch in batches(contents, BATCH):
            prompts = [[*self.work.policy, *contents[i], *self.work.question] for i in batch]
            longest = max(map(len, prompts))
            rows = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            found = self.model.generate(rows, attention_mask=mask, max_new_tokens=1, do_sample=False, pad_token_id=0)
            for i, token in zip(batch, found[:, -1].tolist(), strict=True):
                decisions[i] = token
        return decisions


if __name__ == "__main__":
    serve(HfGenerate)
