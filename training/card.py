"""Stage 8: the figures of the model card, measured on held-back rows, and the card written from them.

The rival, TF-IDF (words 1-2, characters 3-5) + logistic regression, is fitted on the same rows: once on all sources
that the model saw (see `rivals.py`), once on the set's own rows alone.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from guard.calibration import Calibration
from guard.item import Kind
from guard.measure.intervals import Bools, Floats
from guard.measure.metrics import Judged, calibration_error
from guard.moderator import Moderator, Task
from guard.policy import Policy
from training import report, rivals
from training.calibrate import served
from training.config import Config
from training.sources import Example, admissible

# set -> (policy, kind) under which its rows are judged
SETS = {
    "jigsaw_sample": ("forum-comments", Kind.COMMENT),
    "davidson_tweets": ("forum-comments", Kind.COMMENT),
    "implicit_hate": ("forum-comments", Kind.COMMENT),
    "hatexplain": ("forum-comments", Kind.COMMENT),
    "stormfront": ("forum-comments", Kind.COMMENT),
    "diasafety": ("moderation-13", Kind.ANSWER),
    "gptfuzz_responses": ("moderation-13", Kind.ANSWER),
    "authored prompts": ("moderation-13", Kind.PROMPT),
    "authored answers": ("moderation-13", Kind.ANSWER),
    "authored comments": ("forum-comments", Kind.COMMENT),
}
SPEED_ROWS = 2000


def write(config: Config, train: Sequence[Example], held_back: Sequence[Example]) -> None:
    """Measure, write `models/embedded.figures.json`, then the card and the README's figures from it."""
    moderator = served(config, Calibration.load(config.out))
    print("fitting the rival on all rows", flush=True)
    every = rivals.capped(train, config.seed)
    everything = rivals.tfidf([rivals.text(row) for row in every], [row.harmful for row in every])
    figures: dict[str, Any] = {
        "model": moderator.engine.model_id,
        "machine": machine(),
        "command": "python -m training card",
        "parameters": sum(p.numel() for p in _weights(config)),
        "bytes": sum(path.stat().st_size for path in config.out.iterdir()),
        "heads": {"query": config.num_heads, "key_value": config.num_kv_heads},
        "seen": {
            "texts": config.distil_steps * config.distil_rows,
            "questions": config.tune_steps * config.tune_policies * config.tune_rows,
        },
        "trained_on": _counts(train),
        "sets": {},
    }
    for name, (policy_id, kind) in SETS.items():
        policy = moderator.policies.get(policy_id)
        rows = _known(held_back, name, kind, policy)
        labels = np.array([harmful for _, harmful in rows])
        ours = np.array([v.score for v in moderator.judge_many([Task(row.item, policy) for row, _ in rows])])
        same_set = _known(train, name, kind, policy)
        own = rivals.tfidf([rivals.text(row) for row, _ in same_set], [harmful for _, harmful in same_set])
        texts = [rivals.text(row) for row, _ in rows]
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
            "judges": {judge: _quality(labels, found) for judge, found in scores.items()},
            "verdict": {
                judge: rivals.gap(labels, ours, scores[judge], lambda y, s: float(roc_auc_score(y, s)), "tfidf")
                for judge in ("tfidf_all", "tfidf_own")
            },
            "calibration_error": _calibration(labels, ours, policy.threshold),
            "at_threshold": _at(labels, ours, policy.threshold),
        }
        print(json.dumps({name: figures["sets"][name]}), flush=True)
    figures["speed"] = _speed(moderator, [e for e in held_back if e.item.kind is Kind.COMMENT], config.seed)
    report.FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    report.write()


def _known(examples: Sequence[Example], name: str, kind: Kind, policy: Policy) -> list[tuple[Example, bool]]:
    """The examples of a set whose label under the policy is known, and whether they are harmful under it.

    Of a source that speaks of one category, the others count as absent: it is all that can be asked of it.
    """
    found = []
    for example in examples:
        source = "authored" if example.source.startswith("authored") else example.source
        if source != name.split()[0] or example.item.kind is not kind:
            continue
        right = admissible(example, policy, narrowed=False)
        if right == [0] or example.scope:
            found.append((example, False))
        elif right is not None and 0 not in right:
            found.append((example, True))
    return found


def _quality(labels: Bools, scores: Floats) -> dict[str, Any]:
    curve = rivals.curve(labels, scores)
    figures: dict[str, Any] = {}
    for name, figure in (("auroc", curve.auroc()), ("auprc", curve.auprc("harmful"))):
        assert figure.value is not None and figure.low is not None and figure.high is not None  # both classes are there
        figures |= {name: round(figure.value, 4), f"{name}_95": [round(figure.low, 4), round(figure.high, 4)]}
    return figures


def _calibration(labels: Bools, scores: Floats, threshold: float) -> float:
    judged = Judged(labels, scores < threshold, scores, np.arange(len(labels)))
    return round(calibration_error(judged).value or 0.0, 4)


def _at(labels: Bools, scores: Floats, threshold: float) -> dict[str, Any]:
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
