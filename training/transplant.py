"""Stage 3: a sentence encoder's weights carried over into the judge, one linear map after the other.

The encoder (BERT) and the judge (Mistral) have the same width, heads and number of layers, and differ in four ways:
the encoder normalises behind each residual sum and the judge before each block; the encoder has biases and learned
positions; its MLP has no gate; it sees both ways. So nothing is copied. Each map of the judge is fitted by least
squares, in order, so that what it makes of the *judge's own* inputs is what the encoder's map made of the encoder's at
the same token; the errors of the maps before are corrected as far as a linear map can.

The judge's stream at a place is s = ρ x, where x is the encoder's state behind its normalisation there, and ρ grows
from place to place as the encoder's sums would without being normalised; so a block of the judge has to add about ρ f
where the encoder's block adds f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import Module
from transformers import MistralForCausalLM
from transformers.models.mistral.modeling_mistral import apply_rotary_pos_emb

from training.encoder import Encoder
from training.model import Group, Pack, shared_prefix_attention

GELU = 1.702  # gelu(z) is close to z sigmoid(1.702 z), so silu(1.702 z) / 1.702 in a gated unit
RIDGE = 1e-3


def start_embeddings(encoder: Encoder, tokenizer: Tokenizer, size: int) -> Tensor:
    """(V, 384): for each token of ours the mean of its word pieces' embeddings, as the encoder normalises them."""
    embeddings = encoder.bert.embeddings
    words = embeddings.word_embeddings.weight.detach()
    vocabulary = encoder.tokenizer.get_vocab()
    constant = embeddings.position_embeddings.weight[1:64].mean(0) + embeddings.token_type_embeddings.weight[0]
    encoder.tokenizer.no_padding()
    rows = torch.zeros(size, words.shape[1])
    for index in range(size):
        text = tokenizer.decode([index], skip_special_tokens=False)
        inside = "##" + text
        if not text.startswith(" ") and text.isalpha() and inside in vocabulary and text not in vocabulary:
            pieces = [vocabulary[inside]]
        else:
            pieces = encoder.tokenizer.encode(text.strip(), add_special_tokens=False).ids
        rows[index] = words[pieces or [vocabulary["[UNK]"]]].mean(0)
    encoder.tokenizer.enable_padding()
    rows = rows + constant
    rows = rows - rows.mean(1, keepdim=True)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    started: Tensor = rows / rows.std(1, keepdim=True) + noise  # noise: forms of one word must be able to part
    return started


class _Recorder:
    """What each place of the encoder holds for the aligned tokens: (N, 384) or (N, 1536)."""

    def __init__(self, encoder: Encoder, which: tuple[Tensor, Tensor]) -> None:
        self.kept: dict[str, Tensor] = {}
        self._which = which
        for number, layer in enumerate(encoder.bert.encoder.layer):
            attention = layer.attention
            for name, module in {
                "q": attention.self.query, "k": attention.self.key, "v": attention.self.value,
                "gate": layer.intermediate.dense, "attention": attention.output.LayerNorm,
                "mlp": layer.output.LayerNorm,
            }.items():  # fmt: skip
                module.register_forward_hook(self._keep(f"{number} {name}"))

    def _keep(self, name: str) -> Callable[[Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.kept[name] = output[self._which]
            self.kept[f"{name} before"] = inputs[0][self._which]

        return hook


def aligned(offsets: list[list[tuple[int, int]]], ours: list[list[tuple[int, int]]]) -> list[tuple[int, int, int]]:
    """(row, place in the encoder, place in ours) of every pair of tokens that end at the same character."""
    found = []
    for row, (theirs, mine) in enumerate(zip(offsets, ours, strict=True)):
        ends = {end: place for place, (start, end) in enumerate(theirs) if end > start}
        found += [(row, ends[end], place) for place, (start, end) in enumerate(mine) if end > start and end in ends]
    return found


def fit(inputs: Tensor, targets: Tensor) -> Tensor:
    """W (out, in) of the least squares inputs W^T = targets, with a little ridge."""
    x, y = inputs.double(), targets.double()
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve(gram, x.T @ y).T.float()
    return weights


@torch.no_grad()
def transplant(judge: MistralForCausalLM, encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    """Fill `judge` from `encoder`; `texts` are a few thousand to fit on."""
    core = judge.model
    core.embed_tokens.weight.copy_(start_embeddings(encoder, tokenizer, core.embed_tokens.weight.shape[0]))
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    read = encoder.tokenizer.encode_batch(texts)
    matches = torch.tensor(aligned([e.offsets for e in read], [e.offsets for e in encodings]))
    rows, theirs, mine = matches.T
    recorder = _Recorder(encoder, (rows, theirs))
    encoder(texts)
    kept = recorder.kept
    pack = Pack.of([], [e.ids for e in encodings])
    at = pack.starts[rows] + mine  # of the aligned tokens among the packed ones
    cos, sin = core.rotary_emb(torch.zeros(1, 1, 384), pack.positions[None])
    stream = core.embed_tokens.weight[pack.ids]
    scale = 1.0
    for number, layer in enumerate(core.layers):
        source = encoder.bert.encoder.layer[number]
        for block, norm, after in (
            ("attention", layer.input_layernorm, source.attention.output.LayerNorm),
            ("mlp", layer.post_attention_layernorm, source.output.LayerNorm),
        ):
            norm.weight.fill_((stream[at].pow(2).mean(1).sqrt() / scale).mean())
            x = norm(stream)
            if block == "attention":
                part = layer.self_attn
                q, k, v = (kept[f"{number} {name}"].view(len(at), -1, part.head_dim) for name in "qkv")
                output = source.attention.output.dense.weight.view(len(stream[0]), -1, part.head_dim).transpose(0, 1)
                for name, goal in zip(
                    "qkv", shared_heads(q, k, v, output, core.config.num_key_value_heads), strict=True
                ):
                    getattr(part, f"{name}_proj").weight.copy_(fit(x[at], goal.flatten(1)))
                hidden = heads(part, x, cos, sin, pack.groups)
                out = part.o_proj
            else:
                part = layer.mlp
                part.gate_proj.weight.copy_(GELU * fit(x[at], kept[f"{number} gate"]))
                part.up_proj.weight.copy_(fit(x[at], torch.full((len(at), len(part.up_proj.weight)), 1 / GELU)))
                hidden = torch.nn.functional.silu(part.gate_proj(x)) * part.up_proj(x)
                out = part.down_proj
            goal, mean = kept[f"{number} {block}"], after.weight.mean()
            scale = scale * float(kept[f"{number} {block} before"].std(1).mean() / mean)
            out.weight.copy_(fit(hidden[at], scale * goal - stream[at]))
            stream = stream + out(hidden)
            reached = torch.nn.functional.cosine_similarity(stream[at], goal, dim=1).mean()
            print(f"layer {number} {block}: cosine {reached:.3f}", flush=True)
    core.norm.weight.fill_(0.05)  # so that the tied output layer starts with moderate logits


def shared_heads(q: Tensor, k: Tensor, v: Tensor, output: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (N, H, D), keys and values (N, K, D) for K groups of heads, from those of H heads (N, H, D).

    Heads that lose least by it share a key and a value: the D principal directions of theirs together, each key
    weighted by what the queries make of it and each value by the `output` map (H, 384, D). The queries are turned so
    that the products with the shared keys come close to those with their own. A key's strongest directions lie where
    the rotary positions turn slowest, since the encoder's keys know no rotation.
    """
    heads, size = q.shape[1:]
    k, v = k - k.mean(0), v - v.mean(0)  # a constant changes no softmax; that of a value goes into the output map
    use_k = [_root(q[:, head].T @ q[:, head] / len(q)) for head in range(heads)]
    seen_k = torch.stack([k[:, head] @ use_k[head] for head in range(heads)], 1)
    seen_v = torch.stack([v[:, head] @ _root(output[head].T @ output[head]) for head in range(heads)], 1)
    both = [states.flatten(1).double().T @ states.flatten(1).double() for states in (seen_k, seen_v)]
    slow_first = torch.arange(size).view(2, -1).flip(1).T.flatten()  # component c goes to slot slow_first[c]
    queries: list[Tensor] = [q[:, 0]] * heads
    keys, values = [], []
    found = _alike(both, size, groups)
    for members in found:
        for_keys, for_values = (_principal(square, size, members)[0] for square in both)
        for_keys = for_keys[:, slow_first.argsort()]
        keys.append(seen_k[:, members].flatten(1) @ for_keys)
        values.append(seen_v[:, members].flatten(1) @ for_values)
        for head, part in zip(members, torch.split(for_keys, size), strict=True):
            queries[head] = q[:, head] @ torch.linalg.solve(use_k[head], part)
    in_order = [queries[head] for members in found for head in members]
    return torch.stack(in_order, 1), torch.stack(keys, 1), torch.stack(values, 1)


def _alike(both: list[Tensor], size: int, groups: int) -> list[list[int]]:
    """Heads in groups of equal size, each head with those beside which it keeps most of its variance."""
    left: list[int] = list(range(len(both[0]) // size))
    members_each = len(left) // groups
    found = []
    while left:
        members = [left.pop(0)]
        while len(members) < members_each:
            kept = [sum(_principal(square, size, [*members, other])[1] for square in both) for other in left]
            members.append(left.pop(max(range(len(left)), key=kept.__getitem__)))
        found.append(members)
    return found


def _principal(square: Tensor, size: int, members: list[int]) -> tuple[Tensor, float]:
    """The D principal directions (heads D, D) of some heads' states side by side, and the share of variance kept.

    `square` (H D, H D) holds the products of all heads' states.
    """
    at = torch.cat([torch.arange(size) + head * size for head in members])
    spread, vectors = torch.linalg.eigh(square[at][:, at])
    return vectors.flip(1)[:, :size].float(), float(spread[-size:].sum() / spread.sum())


def _root(square: Tensor) -> Tensor:
    """The symmetric square root of a positive matrix, kept away from zero."""
    values, vectors = torch.linalg.eigh(square.double())
    values = values.clamp(min=1e-4 * float(values.max()))
    root: Tensor = (vectors @ torch.diag(values.sqrt()) @ vectors.T).float()
    return root


def heads(part: Any, x: Tensor, cos: Tensor, sin: Tensor, groups: list[Group]) -> Tensor:
    """The heads' outputs (N, H D) that the output projection takes, for packed inputs x (N, 384)."""
    q, k, v = (getattr(part, f"{n}_proj")(x).view(1, len(x), -1, part.head_dim).transpose(1, 2) for n in "qkv")
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    scaling = part.head_dim**-0.5
    out, _ = shared_prefix_attention(part, q, k, v, None, scaling=scaling, prefix=0, groups=groups)
    return out.reshape(len(x), -1)
