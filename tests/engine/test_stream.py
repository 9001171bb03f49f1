"""Streams: the rolling buffer, chunks, and questions on a running text, against the whole sequence at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guard.engine import cache
from guard.engine.attention import Kept
from guard.engine.cache import Pool, Ring, slots
from guard.engine.model import TreeModel
from guard.engine.request import Request, answers
from guard.engine.tree import plan
from guard.errors import EngineError
from tests.families import ids, saved
from tests.oracles import full_matrix_logits, tiny_mistral

WINDOW = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return tiny_mistral(folder, window=WINDOW, max_position_embeddings=512)


@pytest.fixture(scope="module")
def model(folder: Path, reference: Any) -> TreeModel:
    made = TreeModel.load(folder, "float32")
    made.page = 3  # so that a window is several pages, and the last one is not full
    return made


def furthest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


@given(length=st.integers(1, 40), window=st.integers(1, 9))
def test_slots_hold_the_last_position_written_there(length: int, window: int) -> None:
    written = {position % window: position for position in range(length)}
    size = min(length, window)
    assert slots(length, size, window).tolist() == [written[slot] for slot in range(size)]


@given(st.lists(st.integers(1, 14), min_size=1, max_size=8), st.sampled_from([None, 1, 5, 8]))
def test_a_ring_holds_what_was_written_last(sizes: list[int], window: int | None) -> None:
    pool = Pool(100 * 32, 1, 1, torch.float32, torch.device("cpu"), page=4)
    pool.keys.fill_(float("nan"))
    ring, neighbour, length = Ring(pool, window), Ring(pool, None), 0
    for size in sizes:
        numbers = torch.arange(length, length + size).float().view(1, -1, 1)
        ring.reserve(length + size)
        neighbour.reserve(length + size)  # so that pages do not lie side by side
        ring.write(Kept(numbers, -numbers), length)
        length += size
    kept = ring.held(length)
    held = {int(p): (float(k), float(v)) for p, k, v in zip(
        ring.positions(length), kept.keys[0, :, 0], kept.values[0, :, 0], strict=True)}  # fmt: skip
    first = max(0, length - window) if window else 0
    assert held == {p: (float(p), -float(p)) for p in range(first, length)}
    assert len(ring.pages) == -(-min(length, window or length) // 4)
    assert not {*ring.pages} & {*neighbour.pages} and 0 not in ring.pages


@pytest.mark.parametrize("chunk", [1, 3, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3, 100])
@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 3 * WINDOW, 50])
def test_the_last_token_of_a_stream_is_that_of_the_whole_sequence(model, reference, length, chunk):
    stream = model.stream()
    found = model.log_probs(model.extend(stream, ids(length), chunk))[0]
    expected = full_matrix_logits(reference, list(ids(length)))[-1].log_softmax(-1)
    assert stream.length == length and furthest(found, expected) < 1e-4


@given(st.lists(st.integers(1, 2 * WINDOW + 1), min_size=1, max_size=6), st.integers(1, 2 * WINDOW))
def test_however_a_text_comes_in_it_is_the_same(model, reference, sizes, chunk):
    text, stream, at = ids(sum(sizes), seed=len(sizes)), model.stream(), 0
    for size in sizes:
        hidden = model.extend(stream, text[at : at + size], chunk)
        at += size
    expected = full_matrix_logits(reference, list(text))[-1].log_softmax(-1)
    assert furthest(model.log_probs(hidden)[0], expected) < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "phi3", "mixtral"])
def test_other_families_stream_as_they_score(tmp_path, family):
    saved(tmp_path, family)
    model = TreeModel.load(tmp_path, "float32")
    text = ids(40)
    streamed = model.extend(model.stream(), text, 7)
    made = plan([Request((text[:1], text[1:]), ((7,), (9,)), 2)])
    whole = model.hidden(made, model.prefill(text[:1]), 1)
    assert furthest(model.log_probs(streamed), model.log_probs(whole)) < 1e-4


def test_questions_about_a_running_text_leave_it_as_it_is(model, reference):
    """Asked at every length, across the window's edge, several at once; what comes after is not touched by it."""
    text, stream = ids(3 * WINDOW), model.stream()
    questions = [Request(((), ids(n, seed=n)), ((7,), (7, 8), (9,)), 2) for n in (1, 4)]
    for place in range(len(text)):
        model.extend(stream, text[place : place + 1], WINDOW)
        before = [tensor.clone() for ring in stream.rings for tensor in ring.held(stream.length)]
        made = plan(questions, behind=stream.length)
        found = model.log_probs(model.hidden(made, stream, stream.length))
        after = [tensor for ring in stream.rings for tensor in ring.held(stream.length)]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        row = {packed: number for number, packed in enumerate(made.rows)}
        for number, question in enumerate(questions):
            path = [*text[: place + 1], *question.segments[1]]
            for read in (read for read in made.reads if read.request == number):
                answer = answers(question)[read.answer]
                sofar = answer[: answer.index(read.token)]
                expected = full_matrix_logits(reference, [*path, *sofar])[-1].log_softmax(-1)[read.token]
                assert abs(float(found[row[read.row], read.token]) - float(expected)) < 1e-4


def test_memory_stops_growing_at_the_window(model):
    stream, held = model.stream(), {}
    for _ in range(60):
        model.extend(stream, ids(5), WINDOW)
        held[stream.length] = stream.num_bytes
    one = 3 * 2 * 2 * 8 * 4  # layers, keys and values, key-value heads, numbers, bytes
    assert max(held.values()) == held[300] == 9 * one  # three pages of three slots hold the window of 8


def test_pages_go_back_when_a_text_is_forgotten(model):
    pool, free = model.pool, model.pool.free_pages
    streams = [model.stream() for _ in range(3)]
    for stream in streams:
        model.extend(stream, ids(20), WINDOW)
    taken = [page for stream in streams for ring in stream.rings for page in ring.pages]
    assert len(taken) == len({*taken}) == 3 * 3 * 3 and pool.free_pages == free - len(taken)
    del stream, streams[1]
    assert pool.free_pages == free - 18
    streams.clear()
    assert pool.free_pages == free
    again = pool.take(len(taken))
    assert {*again} == {*taken}
    pool.give_back(again)


def test_a_pool_costs_what_is_touched(folder):
    """A gibibyte is there for the texts; a short one costs its pages."""

    def resident() -> int:
        return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x).split()[1])

    model = TreeModel.load(folder, "float32", memory_bytes=2**30)
    before = resident()
    model.extend(model.stream(), ids(30), WINDOW)
    assert model.pool.keys.nbytes + model.pool.values.nbytes > 2**30 - 2**20
    assert resident() - before < 64 * 1024  # KiB


def test_a_pool_that_is_full_says_so_before_anything_is_taken_in(folder):
    model = TreeModel.load(folder, "float32", memory_bytes=6 * 2 * 2 * 3 * 8 * 4)  # six pages of three slots
    model.page = 3
    one, other = model.stream(), model.stream()
    model.extend(one, ids(3), WINDOW)
    model.extend(other, ids(2), WINDOW)
    with pytest.raises(EngineError, match="0 of 6 pages"):
        model.extend(one, ids(1), WINDOW)
    with pytest.raises(EngineError, match="pages"):
        model.decode([other, one], [5, 5])
    assert (one.length, other.length) == (3, 2)
    model.decode([other], [5])
    del other
    assert model.decode([one], [5]).shape == (1, 32) and one.length == 4


@pytest.mark.parametrize("wrong", ["overwritten too early", "off by one at the wrap", "one slot too few"])
def test_a_planted_fault_would_be_seen(model, reference, monkeypatch, wrong):
    if wrong == "overwritten too early":
        whole = Ring.write

        def write(self: Ring, new: Kept, start: int) -> None:
            self.reserve(start + new.keys.shape[1] + 1)
            whole(self, new, start + 1)

        monkeypatch.setattr(Ring, "write", write)
    elif wrong == "off by one at the wrap":
        whole_slots = cache.slots
        monkeypatch.setattr(cache, "slots", lambda length, size, window: whole_slots(length + 1, size, window))
    else:
        made = TreeModel.stream

        def short(self: TreeModel) -> Any:
            stream = made(self)
            for ring in stream.rings:
                ring._window = WINDOW - 2
            return stream

        monkeypatch.setattr(TreeModel, "stream", short)
    text, stream, worst = ids(3 * WINDOW), model.stream(), 0.0
    for place, token in enumerate(text):
        found = model.log_probs(model.extend(stream, (token,), WINDOW))[0]
        worst = max(worst, furthest(found, full_matrix_logits(reference, list(text[: place + 1]))[-1].log_softmax(-1)))
    assert worst > 1e-2
