"""The reference work that every scoring benchmark shares: a model of random weights, a policy, contents, a question.

A Mistral-shaped model of 125.8M weights, a policy prompt of 430 tokens, contents of 62 tokens on average and 400 at
most, a question of 12 tokens, and C one-token labels whose logits are the verdict. Nothing is cut from a corpus: speed
depends on the lengths alone, and random ids keep every engine from sharing more than the policy.

The head's rows of the labels are longer than the others, so that the most likely token is always a label. An engine
that can only generate one greedy token then gives the same decision as one that reads the labels' logits. A content
whose two best labels lie closer together in float32 than bfloat16 can tell apart is drawn again: what is left of
disagreement between two engines is a fault, not a rounding.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

Ids = tuple[int, ...]

VOCABULARY = 32768
SHAPE: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.03,  # wide enough for the contents to change the answer
}
LABELS = tuple((token,) for token in range(10, 24))  # 14: acceptable and thirteen categories
_FIRST_ORDINARY = 100  # ids below are kept for control tokens and labels
_LOUD = 20.0  # how much longer the labels' rows of the head are
_DECISIVE = 1.2  # least distance of the two best labels' logits: five times bfloat16's mean error here


@dataclass(frozen=True)
class Work:
    """One policy, N contents, one question, C labels, all as token ids; and the N decisions of float32."""

    policy: Ids
    contents: tuple[Ids, ...]
    question: Ids
    labels: tuple[Ids, ...]
    decisions: tuple[int, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Work:
        raw = json.loads(path.read_text())
        rows = {name: tuple(map(tuple, raw[name])) for name in ("contents", "labels")}
        return cls(**{name: rows.get(name, tuple(value)) for name, value in raw.items()})


def content_lengths(num: int, mean: int, most: int, seed: int = 7) -> list[int]:
    """Log-normal, as the lengths of comments are, and cut off at `most`."""
    draw = random.Random(seed)
    spread = [draw.lognormvariate(0.0, 0.8) for _ in range(num)]
    scale = mean / (sum(spread) / num)
    while sum(lengths := [min(most, max(3, round(scale * x))) for x in spread]) < mean * num:
        scale *= 1.001  # makes up for what was cut off
    return lengths


def random_ids(draw: random.Random, length: int) -> Ids:
    return tuple(draw.randrange(_FIRST_ORDINARY, VOCABULARY) for _ in range(length))


def make_checkpoint(folder: Path) -> None:
    """Random weights in bfloat16, and a tokenizer whose words are `t0`, `t1`, ... for engines that insist on one."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(7)
    model = MistralForCausalLM(MistralConfig(**SHAPE)).eval()
    with torch.no_grad():
        model.lm_head.weight[[label for (label,) in LABELS]] *= _LOUD
    model.to(torch.bfloat16).save_pretrained(folder)
    words = {f"t{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t1", eos_token="t2", unk_token="t0", pad_token="t0"
    ).save_pretrained(folder)


def make_work(checkpoint: Path, num: int = 256, policy: int = 430, mean: int = 62, most: int = 400) -> Work:
    """The work by its sizes in tokens, decided by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    draw = random.Random(7)
    prefix, question = (1, *random_ids(draw, policy - 1)), random_ids(draw, 12)
    columns = [label for (label,) in LABELS]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    contents, decisions = [], []
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(torch.tensor([prefix]), past_key_values=cache)
        for length in content_lengths(num, mean, most):
            gap = 0.0
            while gap < _DECISIVE:
                content = random_ids(draw, length)
                ids = torch.tensor([(*content, *question)])
                logits = model(ids, past_key_values=cache, logits_to_keep=1).logits[0, -1, columns]
                cache.crop(-len(content) - len(question))
                best, second = logits.topk(2).values.tolist()
                gap = best - second
            contents.append(content)
            decisions.append(columns[int(logits.argmax())])
    return Work(prefix, tuple(contents), question, LABELS, tuple(decisions))


def prepare(folder: Path) -> Work:
    """`folder/checkpoint` and `folder/work.json`, made if they are not there (half a minute)."""
    if not (folder / "work.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        make_checkpoint(folder / "checkpoint")
        make_work(folder / "checkpoint").save(folder / "work.json")
    return Work.load(folder / "work.json")
