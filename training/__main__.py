"""How the embedded model is made, end to end: `python -m training` (all stages) or `python -m training STAGE ...`.

Stages: corpus → tokenizer → transplant → distil → tune → export → calibrate → card. Each one reads what the one before
left in `training/work/` or `models/embedded/`; a stage whose inputs have not changed is not run again, and `distil` and
`tune` go on from their last checkpoint after a kill.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import MistralForCausalLM

from guard.tokenizer import load_tokenizer
from training import calibrate, card, corpus, distil, export, manifest, model, tokenizer, transplant, tune
from training.config import KINDS, POLICIES, Config, configured
from training.encoder import Encoder
from training.manifest import Stage


def make_corpus(config: Config, _inputs: str) -> None:
    corpus.write(config)


def make_tokenizer(config: Config, _inputs: str) -> None:
    tokenizer.train(config, corpus.shuffled(config)[:TOKENIZER_TEXTS])


def make_start(config: Config, _inputs: str) -> None:
    fast = tokenizer.fast(config)
    judge = model.build(config)
    some = [text[: distil.LONGEST] for text in corpus.shuffled(config)[: config.transplant_texts]]
    transplant.transplant(judge, Encoder(), fast, some)
    torch.save({"average": dict(judge.named_parameters())}, config.work / "transplant.pt")


def make_base(config: Config, inputs: str) -> None:
    fast = tokenizer.fast(config)
    distiller = distil.Distiller(config, corpus.texts(config), load_tokenizer(config.tokenizer), fast)
    distil.distil(config, inputs, load(config, "transplant"), distiller)


def make_judge(config: Config, inputs: str) -> None:
    rows, preferred = corpus.examples(config, "train"), corpus.preferences(config)
    sampler = tune.Sampler(config, rows, preferred, load_tokenizer(config.tokenizer))
    fast = tokenizer.fast(config)
    tune.tune(config, inputs, load(config, "distil"), tune.Tuner(config, sampler, Encoder(), fast))


def make_checkpoint(config: Config, _inputs: str) -> None:
    export.export(config, load(config, "tune"))


def make_calibration(config: Config, _inputs: str) -> None:
    calibrate.calibrate(config, corpus.examples(config, "held back"))


def make_card(config: Config, _inputs: str) -> None:
    card.write(config, corpus.examples(config, "train"), corpus.examples(config, "held back"))


def load(config: Config, stage: str) -> MistralForCausalLM:
    """The model as a stage left it."""
    judge = model.build(config)
    weights = torch.load(config.work / f"{stage}.pt", weights_only=True)["average"]
    judge.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})  # tied
    if shutil.which("g++"):  # norms, rotations and activations fused: a step takes three quarters of the time
        for layer in judge.model.layers:
            layer.compile(dynamic=True)
    return judge


def _asked(config: Config) -> list[Path]:
    """What the model is asked: policies, templates, and what their categories cover."""
    folder = config.root / "prompts"
    templates = [folder / "templates" / f"{kind.value}.yaml" for kind in KINDS]
    policies = [folder / "policies" / f"{name}.yaml" for name in POLICIES]
    return [*policies, *templates, config.root / "training" / "concepts.yaml"]


def _texts(config: Config) -> list[Path]:
    return [corpus.files(config)[0]]


def _examples(config: Config) -> list[Path]:
    return [corpus.files(config)[1]]


def _tokenizer(config: Config) -> list[Path]:
    return [config.tokenizer / "tokenizer.json"]


def _weights(config: Config) -> list[Path]:
    return [config.out / name for name in ("config.json", "model.safetensors", "tokenizer.json")]


TOKENIZER_TEXTS = 200_000
SHAPE = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "sliding_window")
STAGES: dict[str, Stage] = {
    "corpus": Stage(
        make_corpus, lambda c: [*c.data.glob("*.jsonl.gz"), *c.authored.glob("*.jsonl")], lambda c: [*corpus.files(c)]
    ),
    "tokenizer": Stage(
        make_tokenizer, lambda c: [*_texts(c), *_asked(c)], _tokenizer, ("vocab_size",)
    ),
    "transplant": Stage(
        make_start, lambda c: [*_texts(c), *_tokenizer(c)], lambda c: [c.work / "transplant.pt"],
        (*SHAPE, "transplant_texts"),
    ),
    "distil": Stage(
        make_base, lambda c: [*_texts(c), *_asked(c), *_tokenizer(c), c.work / "transplant.pt"],
        lambda c: [c.work / "distil.pt"], ("distil_rows", "distil_steps", "distil_learning_rate"),
    ),
    "tune": Stage(
        make_judge, lambda c: [*_examples(c), *_asked(c), *_tokenizer(c), c.work / "distil.pt"],
        lambda c: [c.work / "tune.pt"],
        ("tune_rows", "tune_policies", "content_tokens", "tune_steps", "tune_learning_rate"),
    ),
    "export": Stage(make_checkpoint, lambda c: [*_tokenizer(c), c.work / "tune.pt"], _weights),
    "calibrate": Stage(
        make_calibration, lambda c: [*_examples(c), *_asked(c), *_weights(c)], lambda c: [c.out / "calibration.json"]
    ),
    "card": Stage(
        make_card, lambda c: [*_examples(c), *_asked(c), *_weights(c), c.out / "calibration.json"],
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
    if not names:
        shutil.copy(config.manifest, config.out.with_suffix(".manifest.json"))


if __name__ == "__main__":
    main(sys.argv[1:])
