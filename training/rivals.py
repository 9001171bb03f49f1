"""What the judge is measured against, fitted on the same rows, and how one is told to be better than the other.

TF-IDF over words 1-2 and characters 3-5 with logistic regression; and, where the sentence encoder is installed, its
embeddings with a multi-layer perceptron.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from guard.measure.intervals import Bools, Floats, resamples
from guard.measure.metrics import Curve, Judged
from training.sources import Example

CAP = 6000  # rows per source and class
LONGEST = 3000  # characters


def tfidf(texts: Sequence[str], harmful: Sequence[bool]) -> Pipeline:
    """The n-gram rival."""
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=200_000, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, max_features=200_000, sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=4.0, max_iter=300, class_weight="balanced"))
    return model.fit(texts, harmful)


def encoder_mlp(embeddings: Floats, harmful: Sequence[bool], seed: int) -> MLPClassifier:
    """The sentence encoder's rival, on embeddings (N, 384)."""
    model = MLPClassifier((256,), early_stopping=True, random_state=seed, max_iter=60)
    return model.fit(embeddings, harmful)


def text(example: Example) -> str:
    """What a rival reads of an item."""
    item = example.item
    return (f"{item.prompt}\n{item.text}" if item.prompt else item.text)[:LONGEST]


def capped(examples: Sequence[Example], seed: int) -> list[Example]:
    """At most CAP rows per source and class, without negatives that speak of one category alone."""
    groups: dict[tuple[str, bool], list[Example]] = defaultdict(list)
    for example in examples:
        if not example.scope:
            groups[example.source, example.harmful].append(example)
    draw = random.Random(seed)
    return [e for rows in groups.values() for e in (draw.sample(rows, CAP) if len(rows) > CAP else rows)]


def curve(harmful: Bools, scores: Floats) -> Curve:
    """AUROC, AUPRC and recall of scores of independent items, with intervals."""
    return Curve(Judged(harmful, scores < 0.5, scores, np.arange(len(scores))))


def gap(
    harmful: Bools, ours: Floats, theirs: Floats, figure: Callable[[Bools, Floats], float], name: str
) -> dict[str, Any]:
    """Our figure minus a rival's, with the paired bootstrap's 95 % interval, and who is better by it."""
    weights = resamples(harmful, np.arange(len(harmful)), 400)
    places = [np.repeat(np.arange(len(harmful)), row) for row in weights]
    gaps = [figure(harmful[p], ours[p]) - figure(harmful[p], theirs[p]) for p in places]
    low, high = (float(np.quantile(gaps, q)) for q in (0.025, 0.975))
    return {
        "gap": round(figure(harmful, ours) - figure(harmful, theirs), 4),
        "gap_95": [round(low, 4), round(high, 4)],
        "winner": "guard" if low > 0 else name if high < 0 else "neither",
    }
