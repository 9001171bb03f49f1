"""The fast way finds the groups that comparing each with each finds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.report.clusters import ALIKE, SHINGLE, banded, clusters, linked, shingles, signatures, similarities
from tests.report.conftest import numbered, row

WORDS = [
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "wizards",
    "mix",
    "strange",
    "moons",
]


def shingle_set(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: str, b: str) -> float:
    x, y = shingle_set(a), shingle_set(b)
    return len(x & y) / len(x | y)


def groups_by_comparing_all(texts: list[str]) -> set[frozenset[int]]:
    """Slow and obvious: link each pair that is alike, and follow the links."""
    group = list(range(len(texts)))
    sets = [shingle_set(text) for text in texts]
    for i, x in enumerate(sets):
        for j, y in enumerate(sets[:i]):
            if len(x & y) / len(x | y) >= ALIKE:
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return {frozenset(i for i, g in enumerate(group) if g == name) for name in set(group)}


def varied(count: int, seed: int) -> list[str]:
    """Texts of which many are variants of each other: some nearly equal, some only a little alike."""
    draw = random.Random(seed)
    families = [draw.choices(WORDS, k=draw.randint(4, 25)) for _ in range(count // 8)]
    texts = []
    for _ in range(count):
        words = list(draw.choice(families))
        for _ in range(draw.randint(0, 3)):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        texts.append(" ".join(words).ljust(20, "x"))
    return sorted(set(texts))


def test_groups_are_those_that_comparing_all_with_all_finds():
    texts = varied(240, seed=5)
    of = shingles(texts)
    labels = linked(of, banded(signatures(of)))
    found = {frozenset(np.flatnonzero(labels == name).tolist()) for name in set(labels.tolist())}
    expected = groups_by_comparing_all(texts)
    assert any(len(group) > 3 for group in expected) and any(len(group) == 1 for group in expected)
    assert len(found & expected) >= 0.97 * len(expected)
    for group in found:  # nothing is linked that is not alike
        assert any(group <= other for other in expected)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=30), min_size=2, max_size=8))
def test_similarities_are_exact(texts: list[str]):
    texts = ["".join(c for c in text if c != "\0") for text in texts]
    pairs = np.array([(i, j) for i in range(len(texts)) for j in range(i)])
    found = similarities(shingles(texts), pairs)
    for (i, j), value in zip(pairs, found, strict=True):
        true = jaccard(texts[i].ljust(SHINGLE, "\0"), texts[j].ljust(SHINGLE, "\0"))
        assert value == 0 if true < ALIKE and value == 0 else abs(value - true) < 1e-12


def test_signatures_agree_as_far_as_texts_are_alike():
    texts = varied(150, seed=6)
    signature = signatures(shingles(texts))
    pairs = [(i, j) for i in range(0, len(texts), 3) for j in range(i)]
    true = np.array([jaccard(texts[i], texts[j]) for i, j in pairs])
    agreed = np.array([(signature[i] == signature[j]).mean() for i, j in pairs])
    assert abs((agreed - true).mean()) < 0.02
    assert np.abs(agreed - true)[true > 0.5].mean() < 0.12


def test_a_text_is_wholly_like_itself_in_any_company():
    of = shingles(["aaaaaaaaaaaaaaaaaaaaaaa", "x", "aaaaaaaaaaaaaaaaaaaaaaa", "日本語のとても長い文章です、これは。"])
    assert (signatures(of)[0] == signatures(of)[2]).all()
    assert linked(of, banded(signatures(of))).tolist() == [0, 1, 0, 2]


def test_clusters_tell_who_wrote_what_and_when(rows_of: Callable, tmp_path: Path):
    spam = [
        row(text=f"Cheap followers number {i}: visit our shop today!", decision="block" if i % 2 else "allow",
            categories=["spam"] if i % 2 else [], author=f"bot{i % 3}", board="ads", time=f"2024-01-{i + 1:02}")
        for i in range(10)
    ]  # fmt: skip
    spam.append(row(text="cheap FOLLOWERS number 77: please visit our shop today!", decision="error"))
    other = [row(text=" ".join(random.Random(i).choices(WORDS, k=12)), author="ann") for i in range(20)]
    short = [row(text="thanks!") for _ in range(50)]
    found = clusters(rows_of(numbered([*other, *spam, *short, row(text=None)])), tmp_path)
    assert (found.compared, found.clusters, found.rows) == (31, 1, 11)
    (one,) = found.largest
    assert (one.rows, one.forms, one.judged, one.stopped, one.authors, one.boards) == (11, 2, 10, 5, 3, 1)
    assert one.first and one.last and (one.first.day, one.last.day) == (1, 10)
    assert one.example == "Cheap followers number 0: visit our shop today!"


def test_a_scan_without_texts_has_no_clusters(rows_of: Callable, tmp_path: Path):
    assert clusters(rows_of([row(), row()]), tmp_path).largest == ()


def test_texts_of_one_letter_and_of_a_million_are_no_trouble(rows_of: Callable, tmp_path: Path):
    long = ["word " * 200_000, "word " * 200_001, "word " * 200_002]
    found = clusters(rows_of(numbered(row(text=text) for text in [*long, "a", "\0" * 30, "🙂" * 30])), tmp_path)
    assert [one.rows for one in found.largest] == [3]
