"""How the embedded model is made, end to end: `python -m training` (all stages) or `python -m training STAGE ...`.

Stages: corpus → tokenizer → transplant → distil → tune → export → calibrate → card. Each one reads what the one before
left in `training/work/` or `models/embedded/`; a stage whose inputs have not changed is not run again, and `distil` and
`tune` go on from their last checkpoint after a kill.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import MistralForCausalLM

from guard.item import Kind
from guard.tokenizer import load_tokenizer
from training import calibrate, card, corpus, distil, export, manifest, model, tokenizer, transplant, tune
from training.config import Config, configured
from training.encoder import Encoder
from training.manifest import Stage


def make_corpus(config: Config, _inputs: str) -> None:
    corpus.write(config)


def make_tokenizer(config: Config, _inputs: str) -> None:
    texts = corpus.plain_texts(config)
    some = np.random.default_rng(config.seed).permutation(len(texts))[:200_000]
    tokenizer.train(config, (texts[i] for i in some))


def make_start(config: Config, _inputs: str) -> None:
    fast = tokenizer.fast(config)
    texts = np.random.default_rng(config.seed).permutation(np.array(corpus.plain_texts(config), dtype=object))
    judge = model.build(config)
    some = [text[: distil.LONGEST] for text in texts[: config.transplant_texts] if text.strip()]
    transplant.transplant(judge, Encoder(), fast, some)
    torch.save({"model": judge.state_dict()}, config.work / "transplant.pt")


def make_base(config: Config, inputs: str) -> None:
    fast = tokenizer.fast(config)
    by_kind: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    for example in corpus.examples(config, "train"):
        by_kind[example.item.kind].append(example.item.text)
    texts = distil.Texts(by_kind, corpus.prose(config))
    distiller = distil.Distiller(config, texts, load_tokenizer(config.out), fast)
    distil.distil(config, inputs, load(config, "transplant"), distiller)


def make_judge(config: Config, inputs: str) -> None:
    rows, preferred = corpus.examples(config, "train"), corpus.preferences(config)
    sampler = tune.Sampler(config, rows, preferred, load_tokenizer(config.out))
    fast = tokenizer.fast(config)
    tune.tune(config, inputs, load(config, "distil"), tune.Tuner(sampler, Encoder(), fast))


def make_checkpoint(config: Config, _inputs: str) -> None:
    export.export(config, load(config, "tune"))


def make_calibration(config: Config, _inputs: str) -> None:
    calibrate.calibrate(config, corpus.examples(config, "held back"))


def make_card(config: Config, _inputs: str) -> None:
    card.write(config, corpus.examples(config, "train"), corpus.examples(config, "held back"))


def load(config: Config, stage: str) -> MistralForCausalLM:
    """The model as a stage left it."""
    judge = model.build(config)
    judge.load_state_dict(torch.load(config.work / f"{stage}.pt", weights_only=True)["model"])
    return judge


def _asked(config: Config) -> list[Path]:
    """What the model is asked: policies, templates, and what their categories cover."""
    found = [path for name in ("policies", "templates") for path in (config.root / "prompts" / name).glob("*.yaml")]
    return [*found, config.root / "training" / "concepts.yaml"]


def _corpus(config: Config) -> list[Path]:
    return [config.work / "corpus.jsonl.gz"]


def _weights(config: Config) -> list[Path]:
    return [config.out / name for name in ("config.json", "model.safetensors", "tokenizer.json")]


SHAPE = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "sliding_window")
STAGES: dict[str, Stage] = {
    "corpus": Stage(
        make_corpus, lambda c: [*c.data.glob("*.jsonl.gz"), *c.authored.glob("*.jsonl")], _corpus
    ),
    "tokenizer": Stage(
        make_tokenizer, lambda c: [*_corpus(c), *_asked(c)], lambda c: [c.out / "tokenizer.json"], ("vocab_size",)
    ),
    "transplant": Stage(
        make_start, lambda c: [*_corpus(c), c.out / "tokenizer.json"], lambda c: [c.work / "transplant.pt"],
        (*SHAPE, "transplant_texts"),
    ),
    "distil": Stage(
        make_base, lambda c: [*_corpus(c), *_asked(c), c.out / "tokenizer.json", c.work / "transplant.pt"],
        lambda c: [c.work / "distil.pt"], ("tune_rows", "distil_steps", "distil_learning_rate"),
    ),
    "tune": Stage(
        make_judge, lambda c: [*_corpus(c), *_asked(c), c.out / "tokenizer.json", c.work / "distil.pt"],
        lambda c: [c.work / "tune.pt"], ("tune_rows", "content_tokens", "tune_steps", "tune_learning_rate"),
    ),
    "export": Stage(make_checkpoint, lambda c: [c.work / "tune.pt"], lambda c: _weights(c)[:2]),
    "calibrate": Stage(
        make_calibration, lambda c: [*_corpus(c), *_asked(c), *_weights(c)], lambda c: [c.out / "calibration.json"]
    ),
    "card": Stage(
        make_card, lambda c: [*_corpus(c), *_asked(c), *_weights(c), c.out / "calibration.json"],
        lambda c: [c.out.with_suffix(".figures.json")],
    ),
}  # fmt: skip


def main(names: list[str]) -> None:
    config = configured()
    config.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    manifest.run(STAGES, names or list(STAGES), config)


if __name__ == "__main__":
    main(sys.argv[1:])
