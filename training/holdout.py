"""Measured as a stranger would: train without a family of sources, test on it, beside rivals fitted on the same rows.

    python -m training.holdout [FAMILY ...] [--steps N]

Each judge begins at what `distil` left (which read the texts of all sources, no label of any) and is tuned anew without
the family; the rivals are TF-IDF + logistic regression and sentence encoder + perceptron. One JSON line per family is
added to `training/work/holdout.jsonl`; families that are there already are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from guard.calibration import Calibration, Platt
from guard.item import Kind
from guard.measure.fitting import log_odds, platt
from guard.measure.intervals import Bools, Floats
from guard.measure.metrics import Curve, Judged, calibration_error, f1, false_positive_rate
from guard.policy import Policy
from guard.tokenizer import load_tokenizer
from training import calibrate, corpus, export, rivals, tune
from training.__main__ import load
from training.config import Config, trained_policies
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


SHORT, LONG = 80, 200  # characters: where the slices by length end


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
    sources, policy_id = FAMILIES[family]
    policy = next(policy for policy in trained_policies() if policy.id == policy_id)
    held_back = corpus.examples(config, "held back")
    train = [example for example in corpus.examples(config, "train") if example.source not in sources]
    test = [example for example in held_back if example.source in sources]
    others = [example for example in held_back if example.source not in sources]
    harmful = np.array([example.harmful for example in test])
    scores = {
        "guard": judge_without(config, family, train, others, test, policy),
        **rivals_without(config, train, test),
    }
    slices = {"all": np.ones(len(test), dtype=bool), **slices_of(test)}
    row: dict[str, Any] = {"family": family, "steps": config.tune_steps, "slices": {}}
    for name, inside in slices.items():
        row["slices"][name] = {
            "rows": int(inside.sum()),
            "harmful": int(harmful[inside].sum()),
            "judges": {
                judge: figures(harmful[inside], found[inside], policy.threshold) for judge, found in scores.items()
            },
        }
    row["against"] = {
        rival: rivals.gap(harmful, scores["guard"], found, auprc, rival)
        for rival, found in scores.items() if rival != "guard"
    }  # fmt: skip
    return row


def slices_of(test: Sequence[Example]) -> dict[str, Bools]:
    """Which rows are of each source, where there are several, and of each length."""
    sources = np.array([example.source for example in test])
    lengths = np.array([len(example.item.text) for example in test])
    found = {name: sources == name for name in sorted(set(sources))} if len(set(sources)) > 1 else {}
    return {
        **found,
        f"to {SHORT} characters": lengths <= SHORT,
        f"to {LONG} characters": (lengths > SHORT) & (lengths <= LONG),
        f"over {LONG} characters": lengths > LONG,
    }


def figures(harmful: Bools, scores: Floats, threshold: float) -> dict[str, Any]:
    """What a judge reaches on rows (N) by its scores, and at a threshold."""
    judged = Judged(harmful, scores < threshold, scores, np.arange(len(scores)))
    curve = Curve(judged)
    found = {
        "auprc": curve.auprc("harmful"),
        "auroc": curve.auroc(),
        "recall_at_1": curve.recall_at(0.01),
        "recall_at_5": curve.recall_at(0.05),
        "f1": f1(judged, "harmful"),
        "false_positive_rate": false_positive_rate(judged),
        "calibration_error": calibration_error(judged),
    }
    return {name: estimate.as_json() for name, estimate in found.items()}


def auprc(harmful: Bools, scores: Floats) -> float:
    """Average precision with *harmful* as the positive class."""
    return float(average_precision_score(harmful, scores))


def judge_without(
    config: Config, family: str, train: list[Example], others: list[Example], test: list[Example], policy: Policy
) -> Floats:
    """Scores [N] of a judge tuned on `train` and calibrated on `others`."""
    tokenizer = load_tokenizer(config.tokenizer)
    sampler = tune.Sampler(config, train, corpus.preferences(config), tokenizer)
    tuner = tune.Tuner(config, sampler, Encoder(), fast(config))
    judge = load(config, "distil")
    stage = f"without {family}"
    tune.tune(config, f"{family} {config.tune_steps}", judge, tuner, stage)
    without = replace(config, out=config.work / "without")
    export.export(without, judge)
    moderator = calibrate.served(without, Calibration())
    kind = test[0].item.kind
    rows = calibrate.balanced(others, policy, kind, config.seed)
    fitted = calibrate.scores_of(moderator, [example for example, _ in rows], policy, kind)
    share = calibrate.HARMFUL_SHARE[kind]
    fit = Platt(*platt(fitted, np.array([harm for _, harm in rows]), share))
    scores = calibrate.scores_of(moderator, test, policy, kind)
    (config.work / f"{stage}.pt").unlink()
    return np.array([fit(odds) for odds in log_odds(scores)])


def rivals_without(config: Config, train: list[Example], test: list[Example]) -> dict[str, Floats]:
    """Scores [N] of each rival fitted on the rows of `train` that speak of harm in general, at most CAP of each."""
    same_kind = {example.item.kind for example in test}
    rows = [e for e in rivals.capped(train, config.seed) if e.item.kind in same_kind or Kind.PROMPT in same_kind]
    harmful = [example.harmful for example in rows]
    texts, asked = [rivals.text(example) for example in rows], [rivals.text(example) for example in test]
    found = {"tfidf": rivals.tfidf(texts, harmful).predict_proba(asked)[:, 1]}
    embedded = Embedded(config.work / "embeddings.npz")
    perceptron = rivals.encoder_mlp(embedded(texts), harmful, config.seed)
    return {**found, "encoder": perceptron.predict_proba(embedded(asked))[:, 1]}


class Embedded:
    """Sentence embeddings of texts, kept in a file: all families are fitted on much the same rows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = {}
        if file.is_file():
            with np.load(file) as kept:
                self._known = dict(zip(kept["keys"], kept["vectors"], strict=True))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[N, 384]; those that are not known yet are made, the short ones together, and kept."""
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if new:
            self._make(sorted(new.items(), key=lambda pair: len(pair[1])))
        return np.stack([self._known[key] for key in keys]).astype(np.float64)

    def _make(self, new: Sequence[tuple[str, str]]) -> None:
        encoder = Encoder()
        for start in range(0, len(new), 64):
            keys, texts = zip(*new[start : start + 64], strict=True)
            self._known |= zip(keys, encoder(list(texts)).pooled().numpy().astype(np.float16), strict=True)
        made = self._file.with_suffix(".part.npz")
        np.savez(made, keys=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
        os.replace(made, self._file)


if __name__ == "__main__":
    main()
