"""Stage 4: the judge learns to hold at each word what the sentence encoder holds there, and at the end what it sums up.

The encoder sees both ways, the judge only back: the target at a word is what the encoder makes of the whole text, so
the judge learns to expect. The texts stand in the frame of their kind and before the question, as when the judge is
served (but for the policy, which would cost half the time); the question's last token learns the sentence embedding.
No label is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import MistralForCausalLM

from guard.item import Item, Kind
from guard.prompt import Prompt, load_template
from guard.tokenizer import Tokenizer
from training import loop
from training.config import KINDS, Config, trained_policies
from training.encoder import Encoded, Encoder
from training.model import packed
from training.transplant import aligned

LONGEST = 600  # characters of a text; an unlabelled one is cut anywhere


class Distiller:
    """Draws texts by step and measures how far the judge's states are from the encoder's.

    `texts` are those of each kind of item, and under None plain prose, which is read as any kind.
    """

    def __init__(
        self, config: Config, texts: Mapping[Kind | None, Sequence[str]], tokenizer: Tokenizer, fast: FastTokenizer
    ) -> None:
        self._config, self._texts, self._tokenizer, self._fast = config, texts, tokenizer, fast
        self._policies = trained_policies()
        self._encoder = Encoder()

    def loss(self, judge: MistralForCausalLM, step: int) -> Tensor:
        """Mean cosine distance over words, plus that of the last token to the sentence embedding."""
        draw = random.Random(f"{self._config.seed} distil {step}")
        kind = draw.choices(KINDS, [0.4, 0.4, 0.2])[0]
        policy = draw.choice([p for p in self._policies if kind in p.kinds])
        prompt = Prompt(load_template(kind), policy, self._tokenizer)
        texts = [self._text(draw, kind) for _ in range(self._config.distil_rows)]
        return text_loss(judge, self._encoder, self._fast, prompt, kind, texts)

    def _text(self, draw: random.Random, kind: Kind) -> str:
        text = draw.choice(self._texts[None if draw.random() < 0.3 else kind])
        start = draw.randrange(len(text) - LONGEST) if len(text) > LONGEST else 0
        return text[start : start + LONGEST]


def text_loss(
    judge: MistralForCausalLM, encoder: Encoder, fast: FastTokenizer, prompt: Prompt, kind: Kind, texts: list[str]
) -> Tensor:
    """See `Distiller.loss`."""
    item = Item(text="x", kind=kind, prompt="x" if kind is Kind.ANSWER else None)
    frame = prompt.content(item)
    encodings = fast.encode_batch(texts, add_special_tokens=False)
    rows = [[*frame.before, *e.ids, *frame.after, *prompt.question] for e in encodings]
    encoded = encoder(texts)
    hidden, starts = packed(judge, prompt.prefix[:2], rows)  # <s> and [INST]
    words = word_distance(hidden, starts + len(frame.before), [e.offsets for e in encodings], encoded)
    ends = starts + torch.tensor([len(r) for r in rows]) - 1
    sums = cosine_similarity(hidden[ends].float(), encoded.pooled().float(), dim=1)
    return words + 1 - sums.mean()


def word_distance(hidden: Tensor, starts: Tensor, offsets: list[list[tuple[int, int]]], encoded: Encoded) -> Tensor:
    """Mean cosine distance between states (N, 384), where text B begins at `starts` [B], and the encoder's."""
    row, theirs, mine = torch.tensor(aligned(encoded.offsets, offsets)).T
    near = cosine_similarity(hidden[starts[row] + mine].float(), encoded.states[row, theirs].float(), dim=1)
    return 1 - near.mean()


def distil(config: Config, inputs: str, judge: MistralForCausalLM, distiller: Distiller) -> None:
    """`distil_steps` steps of the loss above."""
    loop.run(
        config, "distil", inputs, judge, config.distil_learning_rate, config.distil_steps,
        lambda step: distiller.loss(judge, step),
    )  # fmt: skip
