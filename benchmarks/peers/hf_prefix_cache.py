"""transformers with the policy's keys and values computed once, and the contents in padded batches of like length.

Padding is on the right, where causal attention hides it from every real token and positions stay as they are; the head
is applied to the last real token of each row, and only its labels' rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch.nn.functional import linear

from benchmarks.peers.serve import THREADS, Peer, batches, serve
from benchmarks.workload import Ids, Work

BATCH = 8


class HfPrefixCache(Peer):
    name = "hf_prefix_cache"
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    precision = "bf16"
    settings = f"policy's cache expanded per batch, sdpa, batches of {BATCH} sorted by length, labels' rows of the head"

    @torch.inference_mode()
    def __init__(self, folder: Path, work: Work, dtype: str) -> None:
        torch.set_num_threads(THREADS)
        self.work = work
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.bfloat16)
        self.model.eval()
        self.labels = [label for (label,) in work.labels]
        self.head = self.model.lm_head.weight[self.labels]
        cache = transformers.DynamicCache(config=self.model.config)
        self.model(torch.tensor([work.policy]), past_key_values=cache)
        self.prefix = [(layer.keys, layer.values) for layer in cache.layers]

    @torch.inference_mode()
    def decide(self, contents: Sequence[Ids]) -> list[int]:
        decisions = [0] * len(contents)
        for batch in batches(contents, BATCH):
            rows = [[*contents[i], *self.work.question] for i in batch]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            size = (len(batch), -1, -1, -1)
            cache = transformers.DynamicCache([(k.expand(size), v.expand(size)) for k, v in self.prefix])
            states = self.model.model(ids, past_key_values=cache).last_hidden_state
            last = states[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in rows])]
            for i, best in zip(batch, linear(last, self.head).argmax(-1).tolist(), strict=True):
                decisions[i] = self.labels[best]
        return decisions


if __name__ == "__main__":
    serve(HfPrefixCache)
