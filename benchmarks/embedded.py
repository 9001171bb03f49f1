"""Comments a second: the embedded model under its own policy, against an encoder classifier of BERT-base's size.

`python -m benchmarks.embedded`. Ours is timed from text to verdict. The encoder (random weights, transformers, bf16,
length-sorted batches at its best batch size) is timed from token ids to logits, on the same texts cut by the same
tokenizer: it reads no policy, and its tokenizer is spared. Fails under 150 comments a second or 3 times the encoder.
"""

from __future__ import annotations

import csv

import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import emit, in_turns, seconds
from benchmarks.peers.setup import ROOT
from guard import Moderator
from guard.resources import shipped
from guard.tokenizer import load_tokenizer

ROUNDS = 5
POLICY = "forum-comments"
LEAST_RATE, LEAST_RATIO = 150.0, 3.0
BATCHES = (8, 16, 32, 64)


def encoder_pass(model: BertForSequenceClassification, ids: list[list[int]], size: int) -> None:
    """All texts, the longest first, padded to the longest of their batch."""
    ordered = sorted(ids, key=len, reverse=True)
    with torch.inference_mode():
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            longest = len(batch[0])
            padded = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
            model(input_ids=padded, attention_mask=mask)


def main() -> None:
    with (ROOT / "examples" / "forum_comments.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    moderator = Moderator.load()
    tasks = [moderator.task(text, policy=POLICY) for text in texts]
    tokenizer = load_tokenizer(shipped("models") / "embedded")
    ids = [tokenizer.encode(text)[:510] for text in texts]
    torch.manual_seed(0)
    encoder = BertForSequenceClassification(BertConfig(num_labels=7)).to(torch.bfloat16).eval()
    size = min(BATCHES, key=lambda n: min(seconds(lambda: encoder_pass(encoder, ids, n)) for _ in range(2)))
    took = in_turns(
        {"guard": lambda: moderator.judge_many(tasks), "encoder": lambda: encoder_pass(encoder, ids, size)}, ROUNDS
    )
    rate, rival = (len(texts) / took[name] for name in ("guard", "encoder"))
    faults = []
    if rate < LEAST_RATE:
        faults.append(f"{rate:.0f} comments a second")
    if rate < LEAST_RATIO * rival:
        faults.append(f"{rate / rival:.1f} times the encoder")
    emit(
        "embedded", faults, guard=round(rate, 1), encoder=round(rival, 1), ratio=round(rate / rival, 1),
        comments=len(texts), policy=POLICY, tokens_per_comment=round(sum(map(len, ids)) / len(ids), 1),
        characters_per_comment=round(sum(map(len, texts)) / len(texts), 1),
        encoder_weights=sum(p.numel() for p in encoder.parameters()), encoder_batch=size,
    )  # fmt: skip


if __name__ == "__main__":
    main()
