"""llama.cpp with the policy decoded once and shared by all sequences of a unified cache; logits of last tokens only.

A unified cache lets contents of any lengths share one batch and the policy's cells, at the price that a token attends
(masked) over the other contents of its batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp as llama
import numpy as np

from benchmarks.peers.serve import THREADS, Peer, serve
from benchmarks.workload import Ids, Work

BATCH = 512  # tokens
SEQUENCES = 64  # contents in a batch


@llama.llama_log_callback
def _quiet(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp's log is of no use here."""


class LlamaCpp(Peer):
    name = "llama_cpp"
    dtypes = ("bf16", "int8")
    version = f"llama-cpp-python {llama.__version__}"

    def __init__(self, folder: Path, work: Work, dtype: str) -> None:
        self.work = work
        self.precision = dtype
        self.labels = [label for (label,) in work.labels]
        self.room = max(BATCH, len(work.policy), *(len(content) + len(work.question) for content in work.contents))
        self.settings = f"unified cache of f16, batches of {BATCH} tokens, {THREADS} threads, built for this CPU" + (
            ", q8_0" if dtype == "int8" else ""
        )
        llama.llama_log_set(_quiet, ctypes.c_void_p())
        llama.llama_backend_init()
        path = str(folder / self.name / f"{dtype}.gguf")
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx = len(work.policy) + self.room
        params.n_batch = params.n_ubatch = self.room
        params.n_seq_max = SEQUENCES + 1
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = THREADS
        self.context = llama.llama_init_from_model(self.model, params)
        self.memory = llama.llama_get_memory(self.context)
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(self.room, 0, 1)
        self._decode([work.policy], first=0, position=0)
        for sequence in range(1, SEQUENCES + 1):
            llama.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def _decode(self, rows: Sequence[Ids], first: int, position: int) -> list[int]:
        """Decodes the rows as sequences `first`, `first + 1`, ...; where in the batch each one's last token is."""
        batch, count, lasts = self.batch, 0, []
        for sequence, row in enumerate(rows, first):
            for offset, token in enumerate(row):
                batch.token[count] = token
                batch.pos[count] = position + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = offset == len(row) - 1
                count += 1
            lasts.append(count - 1)
        batch.n_tokens = count
        if status := llama.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode: {status}")
        return lasts

    def _batches(self, contents: Sequence[Ids]) -> Iterator[list[int]]:
        """Indices of the contents, longest first, as many at a time as fit into a batch."""
        batch: list[int] = []
        tokens = 0
        for i in sorted(range(len(contents)), key=lambda i: -len(contents[i])):
            length = len(contents[i]) + len(self.work.question)
            if batch and (len(batch) == SEQUENCES or tokens + length > BATCH):
                yield batch
                batch, tokens = [], 0
            batch.append(i)
            tokens += length
        yield batch

    def decide(self, contents: Sequence[Ids]) -> list[int]:
        decisions = [0] * len(contents)
        start = len(self.work.policy)
        for batch in self._batches(contents):
            lasts = self._decode([(*contents[i], *self.work.question) for i in batch], first=1, position=start)
            for sequence, (i, last) in enumerate(zip(batch, lasts, strict=True), 1):
                logits = llama.llama_get_logits_ith(self.context, last)
                row = np.ctypeslib.as_array(logits, shape=(self.vocabulary,))
                decisions[i] = self.labels[int(row[self.labels].argmax())]
                llama.llama_memory_seq_rm(self.memory, sequence, start, -1)
        return decisions


if __name__ == "__main__":
    serve(LlamaCpp)
