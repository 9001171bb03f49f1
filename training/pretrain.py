"""Stage 3: next-token prediction on the plain text and on the training rows' texts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import MistralForCausalLM

from training import loop
from training.config import Config
from training.model import layout

Tokens = NDArray[np.uint16]


def token_stream(config: Config, tokenizer: Tokenizer, texts: list[str], needed: int) -> Tokens:
    """Shuffled texts as one array of `needed` ids or more, <s> before and </s> behind each; kept in `work`."""
    file = config.work / "pretrain_tokens.npy"
    if file.is_file():
        kept: Tokens = np.load(file)
        return kept
    order = np.random.default_rng(config.seed).permutation(len(texts))
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    parts: list[Tokens] = []
    held = 0
    for start in range(0, len(order), 2000):
        batch = [texts[i] for i in order[start : start + 2000]]
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            parts.append(np.array([bos, *encoding.ids, eos], dtype=np.uint16))
            held += len(parts[-1])
        if held > needed:
            break
    stream: Tokens = np.concatenate(parts)
    np.save(file, stream)
    return stream


def pretrain(config: Config, model: MistralForCausalLM, stream: Tokens) -> None:
    """Rows of `pretrain_tokens` tokens, read once from the front of the stream."""
    rows, length = config.pretrain_rows, config.pretrain_tokens
    positions = torch.arange(length).repeat(rows)[None]
    groups = layout(0, [length] * rows, per_group=rows)

    def step_loss(step: int) -> Tensor:
        starts = (np.arange(rows) + step * rows) * length % (len(stream) - length - 1)
        batch = torch.from_numpy(np.stack([stream[s : s + length + 1] for s in starts]).astype(np.int64))
        hidden = model.model(
            input_ids=batch[:, :-1].reshape(1, -1), position_ids=positions, use_cache=False,
            prefix=0, groups=groups,
        ).last_hidden_state  # fmt: skip
        logits = model.lm_head(hidden[0])
        return torch.nn.functional.cross_entropy(logits.float(), batch[:, 1:].reshape(-1))

    loop.run(config, "pretrain", model, config.learning_rate, config.pretrain_steps, step_loss)
