"""Measured as a stranger would: train without a family of sources, test on it, beside rivals fitted on the same rows.

    python -m training.holdout [FAMILY ...] [--steps N]

Each judge begins at what `distil` left (which read the texts of all sources, no label of any) and is tuned anew without
the family; the rivals are TF-IDF + logistic regression and sentence encoder + perceptron. One JSON line per family is
added to `training/work/holdout.jsonl`; families that are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from guard.engine.engine import TorchEngine
from guard.item import Kind
from guard.measure.intervals import Bools, Floats
from guard.moderator import Moderator, Task
from guard.settings import Settings
from guard.tokenizer import load_tokenizer
from training import corpus, export, loop, rivals, tune
from training.__main__ import load
from training.config import Config
from training.encoder import Encoder
from training.sources import Example
from training.tokenizer import fast

# family -> its sources, and the policy that their rows are judged by
FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {
    "davidson_tweets": (("davidson_tweets",), "forum-comments"),
    "implicit_hate": (("implicit_hate",), "forum-comments"),
    "hatexplain + gab_hate": (("hatexplain", "gab_hate"), "forum-comments"),
    "stormfront": (("stormfront",), "forum-comments"),
    "jigsaw_sample": (("jigsaw_sample",), "forum-comments"),
    "diasafety": (("diasafety",), "moderation-13"),
    "gptfuzz_responses": (("gptfuzz_responses",), "moderation-13"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    config = replace(Config(), tune_steps=asked.steps)
    file = config.work / "holdout.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    done = {(row["family"], row["steps"]) for row in map(json.loads, lines)}
    for family in asked.families:
        if (family, asked.steps) not in done:
            row = measured(config, family)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measured(config: Config, family: str) -> dict[str, Any]:
    """Figures of one family, by judges that never saw a label of it."""
    sources, policy = FAMILIES[family]
    train = [example for example in corpus.examples(config, "train") if example.source not in sources]
    test = [example for example in corpus.examples(config, "held back") if example.source in sources]
    harmful = np.array([example.harmful for example in test])
    scores = {"guard": judge_without(config, family, train, test, policy), **rivals_without(config, train, test)}
    row: dict[str, Any] = {
        "family": family,
        "steps": config.tune_steps,
        "rows": len(test),
        "harmful": int(harmful.sum()),
    }
    for name, found in scores.items():
        curve = rivals.curve(harmful, found)
        row[name] = {
            "auprc": curve.auprc("harmful").as_json(),
            "auroc": curve.auroc().as_json(),
            "recall_at_1": curve.recall_at(0.01).as_json(),
            "recall_at_5": curve.recall_at(0.05).as_json(),
        }
        if name != "guard":
            row[name]["gap"] = rivals.gap(harmful, scores["guard"], found, auprc, name)
    return row


def auprc(harmful: Bools, scores: Floats) -> float:
    """Average precision with *harmful* as the positive class."""
    return float(average_precision_score(harmful, scores))


def judge_without(config: Config, family: str, train: list[Example], test: list[Example], policy: str) -> Floats:
    """Scores [N] of a judge tuned on `train`."""
    tokenizer = load_tokenizer(config.tokenizer)
    sampler = tune.Sampler(config, train, corpus.preferences(config), tokenizer)
    tuner = tune.Tuner(sampler, Encoder(), fast(config))
    judge = load(config, "distil")
    stage = f"without {family}"
    loop.run(
        config, stage, f"{family} {config.tune_steps}", judge, config.tune_learning_rate, config.tune_steps,
        lambda step: tuner.loss(judge, step),
    )  # fmt: skip
    folder = config.work / "without"
    export.export(replace(config, out=folder), judge)
    moderator = Moderator(TorchEngine.load(folder), tokenizer, settings=Settings())
    chosen = moderator.policies.get(policy)
    tasks = [Task(example.item, chosen) for example in test]
    (config.work / f"{stage}.pt").unlink()
    return np.array([verdict.score for verdict in moderator.judge_many(tasks)])


def rivals_without(config: Config, train: list[Example], test: list[Example]) -> dict[str, Floats]:
    """Scores [N] of each rival fitted on the rows of `train` that speak of harm in general, at most CAP of each."""
    same_kind = {example.item.kind for example in test}
    rows = [e for e in rivals.capped(train, config.seed) if e.item.kind in same_kind or Kind.PROMPT in same_kind]
    harmful = [example.harmful for example in rows]
    texts, asked = [rivals.text(example) for example in rows], [rivals.text(example) for example in test]
    found = {"tfidf": rivals.tfidf(texts, harmful).predict_proba(asked)[:, 1]}
    perceptron = rivals.encoder_mlp(embedded(texts), harmful, config.seed)
    return {**found, "encoder": perceptron.predict_proba(embedded(asked))[:, 1]}


def embedded(texts: list[str]) -> Floats:
    """Sentence embeddings [N, 384]."""
    encoder = Encoder()
    parts = []
    with torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(texts), 64):
            parts.append(encoder(texts[start : start + 64]).pooled().float().numpy())
    found: Floats = np.concatenate(parts).astype(np.float64)
    return found


if __name__ == "__main__":
    main()
