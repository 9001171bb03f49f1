"""The reference work has the sizes that it states."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.peers.serve import batches, spread
from benchmarks.workload import LABELS, Work, content_lengths, random_ids


def test_lengths_have_the_stated_mean_and_bound():
    lengths = content_lengths(256, 62, 400)
    assert len(lengths) == 256 and max(lengths) <= 400 and min(lengths) >= 3
    assert 61.9 <= sum(lengths) / 256 <= 62.1
    assert len(set(lengths)) > 60, "of many lengths, as comments are"


def test_work_comes_back_as_it_was_saved(tmp_path: Path):
    draw = random.Random(1)
    work = Work((1, 2), (random_ids(draw, 3), random_ids(draw, 5)), (7,), LABELS, (10, 11))
    work.save(tmp_path / "work.json")
    assert Work.load(tmp_path / "work.json") == work


def test_a_part_of_the_contents_is_spread_over_the_lengths():
    work = Work((1,), tuple((5,) * n for n in range(1, 65)), (7,), LABELS, (10,) * 64)
    some = spread(work, 8)
    assert some == [4, 12, 20, 28, 36, 44, 52, 60] and spread(work, 64) == list(range(64))


def test_batches_hold_every_content_once():
    contents = [(5,) * n for n in (3, 9, 1, 7, 7)]
    found = list(batches(contents, 2))
    assert [[len(contents[i]) for i in batch] for batch in found] == [[9, 7], [7, 3], [1]]
