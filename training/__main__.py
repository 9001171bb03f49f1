"""How the embedded model is made, end to end: `python -m training` (all stages) or `python -m training STAGE ...`.

Stages: tokenizer → pretrain → tune → refine → export → calibrate → card. Each one reads what the one before it left in
`training/work/` or `models/embedded/`; pretrain and tune resume from their last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from transformers import MistralForCausalLM

from guard.tokenizer import load_tokenizer
from training import calibrate, card, export, model, pretrain, tokenizer, tune
from training.config import Config
from training.corpus import UNLABELLED, Example, authored_examples, public_examples, read_rows


def examples(config: Config, split: str) -> list[Example]:
    """The rows of one split: "train", or everything else."""
    every = [*public_examples(config), *authored_examples(config)]
    return [example for example in every if (example.split == "train") == (split == "train")]


def plain_texts(config: Config) -> list[str]:
    """Texts without use of their labels: the training rows and the unlabelled sets."""
    rows = (row["text"] for name in UNLABELLED for row in read_rows(config.data / f"{name}.jsonl.gz"))
    return [*(example.item.text for example in examples(config, "train")), *rows]


def make_tokenizer(config: Config) -> None:
    texts = plain_texts(config)
    some = np.random.default_rng(config.seed).permutation(len(texts))[:200_000]
    tokenizer.train(config, (texts[i] for i in some))


def make_base(config: Config) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(config.out / "tokenizer.json"))
    needed = config.pretrain_steps * config.pretrain_rows * config.pretrain_tokens
    stream = pretrain.token_stream(config, fast, plain_texts(config), needed)
    pretrain.pretrain(config, model.build(config), stream)


def make_judge(config: Config) -> None:
    sampler = tune.Sampler(config, examples(config, "train"), load_tokenizer(config.out))
    tune.tune(config, load(config, "pretrain"), sampler, "tune", config.tune_learning_rate, config.tune_steps)


def refine_judge(config: Config) -> None:
    sampler = tune.Sampler(config, examples(config, "train"), load_tokenizer(config.out), pair_share=0.5)
    tune.tune(config, load(config, "tune"), sampler, "refine", config.refine_learning_rate, config.refine_steps)


def load(config: Config, stage: str) -> MistralForCausalLM:
    """The model as a stage left it."""
    judge = model.build(config)
    judge.load_state_dict(torch.load(config.work / f"{stage}.pt", weights_only=True)["model"])
    return judge


STAGES: dict[str, Callable[[Config], None]] = {
    "tokenizer": make_tokenizer,
    "pretrain": make_base,
    "tune": make_judge,
    "refine": refine_judge,
    "export": lambda config: export.export(config, load(config, "refine")),
    "calibrate": lambda config: calibrate.calibrate(config, examples(config, "held back")),
    "card": lambda config: card.write(config, examples(config, "train"), examples(config, "held back")),
}


def main(names: list[str]) -> None:
    config = Config()
    config.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    for name in names or list(STAGES):
        print(f"stage {name}", flush=True)
        STAGES[name](config)


if __name__ == "__main__":
    main(sys.argv[1:])
