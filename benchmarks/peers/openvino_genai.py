"""OpenVINO GenAI's continuous batching with prefix caching, one greedy token per content.

Its prefix cache would keep the contents as well and answer a second run from memory, so the pipeline is made anew
before every run (off the clock) and fed the policy with contents of other ids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from benchmarks.peers.serve import Peer, serve
from benchmarks.workload import Ids, Work, random_ids

SCHEDULER = {"max_num_batched_tokens": 2048, "num_kv_blocks": 1024}
# int8: weights of 8 bits and activations quantized on the fly in groups of this size
PROPERTIES = {
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"},
    "int8": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"},
}


class OpenvinoGenai(Peer):
    name = "openvino_genai"
    dtypes = ("bf16", "int8")
    version = f"openvino_genai {openvino_genai.__version__}"

    def __init__(self, folder: Path, work: Work, dtype: str) -> None:
        self.work = work
        self.model = folder / self.name / dtype
        self.precision = dtype
        properties = PROPERTIES[dtype]
        self.settings = ", ".join(f"{k}={v}" for k, v in ({"prefix caching": "on"} | SCHEDULER | properties).items())
        self.scheduler = openvino_genai.SchedulerConfig()
        self.scheduler.enable_prefix_caching = True
        for key, value in SCHEDULER.items():
            setattr(self.scheduler, key, value)
        self.config = openvino_genai.GenerationConfig(max_new_tokens=1, do_sample=False)
        draw = random.Random(1)
        self.others = [random_ids(draw, len(content)) for content in work.contents[::8]]
        self.forget()

    def forget(self) -> None:
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            self.model, self.scheduler, "CPU", PROPERTIES[self.precision]
        )
        self.decide(self.others)

    def decide(self, contents: Sequence[Ids]) -> list[int]:
        order = sorted(range(len(contents)), key=lambda i: -len(contents[i]))
        prompts = [
            openvino.Tensor(np.array([[*self.work.policy, *contents[i], *self.work.question]], dtype=np.int64))
            for i in order
        ]
        found = self.pipeline.generate(prompts, [self.config] * len(prompts))
        decisions = [0] * len(contents)
        for i, result in zip(order, found, strict=True):
            decisions[i] = result.m_generation_ids[0][0]
        return decisions


if __name__ == "__main__":
    serve(OpenvinoGenai)
