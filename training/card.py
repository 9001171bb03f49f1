"""Stage 7: the figures of the model card, measured on held-back rows, and the card written from them.

The rival, TF-IDF (words 1-2, characters 3-5) + logistic regression, is fitted on the same rows: once on all sources
that the model saw (as many of each as the model's sampler draws from), once on the set's own rows alone.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from guard.calibration import Calibration
from guard.item import Kind
from guard.moderator import Moderator, Task
from training import report
from training.calibrate import served
from training.config import Config
from training.corpus import Example

# set -> (policy, kind) under which its rows are judged
SETS = {
    "jigsaw_sample": ("forum-comments", Kind.COMMENT),
    "implicit_hate": ("forum-comments", Kind.COMMENT),
    "gptfuzz_responses": ("moderation-13", Kind.ANSWER),
}
RIVAL_CAP = 6000  # rows per source and class
RESAMPLES = 1000
SPEED_ROWS = 2000


def write(config: Config, train: Sequence[Example], held_back: Sequence[Example]) -> None:
    """Measure, write `models/embedded.figures.json`, then the card and the README's figures from it."""
    moderator = served(config, Calibration.load(config.out))
    print("fitting the rival on all rows", flush=True)
    everything = rival(_capped(train, config.seed))
    figures: dict[str, Any] = {
        "model": moderator.engine.model_id,
        "machine": machine(),
        "command": "python -m training card",
        "parameters": sum(p.numel() for p in _weights(config)),
        "bytes": sum(path.stat().st_size for path in config.out.iterdir()),
        "trained_on": _counts(train),
        "sets": {},
    }
    for name, (policy_id, kind) in SETS.items():
        rows = [example for example in held_back if example.source == name]
        labels = np.array([example.harmful for example in rows])
        policy = moderator.policies.get(policy_id)
        ours = np.array([v.score for v in moderator.judge_many([Task(row.item, policy) for row in rows])])
        own = rival([example for example in train if example.source == name])
        texts = [_text(row) for row in rows]
        scores = {
            "guard": ours,
            "tfidf_all": everything.predict_proba(texts)[:, 1],
            "tfidf_own": own.predict_proba(texts)[:, 1],
        }
        figures["sets"][name] = {
            "policy": policy_id,
            "kind": kind.value,
            "rows": len(rows),
            "harmful": int(labels.sum()),
            "judges": {judge: _quality(labels, found, config.seed) for judge, found in scores.items()},
            "verdict": _who_wins(labels, scores, config.seed),
            "at_threshold": _at(labels, ours, policy.threshold),
        }
        print(json.dumps({name: figures["sets"][name]}), flush=True)
    figures["speed"] = _speed(moderator, [e for e in held_back if e.item.kind is Kind.COMMENT], config.seed)
    report.FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    report.write()


def rival(examples: Sequence[Example]) -> Pipeline:
    """TF-IDF over words 1-2 and characters 3-5, and logistic regression."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=200_000, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, max_features=200_000, sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=4.0, max_iter=300, class_weight="balanced"))
    return model.fit([_text(example) for example in examples], [example.harmful for example in examples])


def _text(example: Example) -> str:
    item = example.item
    return f"{item.prompt}\n{item.text}"[:3000] if item.prompt else item.text[:3000]


def _capped(examples: Sequence[Example], seed: int) -> list[Example]:
    groups: dict[tuple[str, bool], list[Example]] = defaultdict(list)
    for example in examples:
        if not example.scope:  # negatives that speak of one category alone would mislead a binary rival
            groups[example.source, example.harmful].append(example)
    draw = random.Random(seed)
    return [e for rows in groups.values() for e in (draw.sample(rows, RIVAL_CAP) if len(rows) > RIVAL_CAP else rows)]


def _quality(labels: np.ndarray, scores: np.ndarray, seed: int) -> dict[str, Any]:
    draws = _resamples(labels, seed)
    areas = [roc_auc_score(labels[d], scores[d]) for d in draws]
    precisions = [average_precision_score(labels[d], scores[d]) for d in draws]
    return {
        "auroc": round(float(roc_auc_score(labels, scores)), 4),
        "auroc_95": [round(float(np.quantile(areas, q)), 4) for q in (0.025, 0.975)],
        "auprc": round(float(average_precision_score(labels, scores)), 4),
        "auprc_95": [round(float(np.quantile(precisions, q)), 4) for q in (0.025, 0.975)],
    }


def _who_wins(labels: np.ndarray, scores: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Our AUROC minus each rival's, with the paired bootstrap's 95 % interval."""
    found = {}
    for judge in ("tfidf_all", "tfidf_own"):
        gaps = [
            roc_auc_score(labels[d], scores["guard"][d]) - roc_auc_score(labels[d], scores[judge][d])
            for d in _resamples(labels, seed)
        ]
        low, high = (float(np.quantile(gaps, q)) for q in (0.025, 0.975))
        found[judge] = {
            "gap": round(float(np.mean(gaps)), 4),
            "gap_95": [round(low, 4), round(high, 4)],
            "winner": "guard" if low > 0 else "tfidf" if high < 0 else "neither",
        }
    return found


def _resamples(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Stratified bootstrap: both classes keep their sizes."""
    draw = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    return [np.concatenate([draw.choice(rows, len(rows)) for rows in classes]) for _ in range(RESAMPLES)]


def _at(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    flagged = scores >= threshold
    return {
        "threshold": threshold,
        "recall": round(float(flagged[labels].mean()), 4),
        "false_positive_rate": round(float(flagged[~labels].mean()), 4),
    }


def _speed(moderator: Moderator, comments: Sequence[Example], seed: int) -> dict[str, Any]:
    """Comments per second under forum-comments, the policy's keys already kept; the median of three rounds."""
    policy = moderator.policies.get("forum-comments")
    rows = random.Random(seed).sample(list(comments), SPEED_ROWS)
    tasks = [Task(row.item, policy) for row in rows]
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        moderator.judge_many(tasks)
        rates.append(len(tasks) / (time.perf_counter() - began))
    return {
        "comments_per_second": round(sorted(rates)[1]),
        "rows": SPEED_ROWS,
        "threads": torch.get_num_threads(),
        "mean_characters": round(sum(len(row.item.text) for row in rows) / len(rows)),
    }


def machine() -> str:
    """The processor, its cores and the Python and torch in use."""
    has = torch.cpu.get_capabilities()
    bf16 = ", AVX512-BF16" if has.get("avx512_bf16") else ""
    return (
        f"{has.get('cpu_name') or platform.machine()}{bf16}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _weights(config: Config) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(config.out / "model.safetensors").values())


def _counts(train: Sequence[Example]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for example in train:
        row = counts.setdefault(example.source, {"harmful": 0, "acceptable": 0})
        row["harmful" if example.harmful else "acceptable"] += 1
    return dict(sorted(counts.items()))
