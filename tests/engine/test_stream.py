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
from guard.engine.cache import Ring, slots
from guard.engine.model import TreeModel
from guard.engine.request import Request, answers
from guard.engine.tree import plan
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
    return TreeModel.load(folder, "float32")


def furthest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


@given(length=st.integers(0, 40), window=st.integers(1, 9), room=st.integers(1, 9))
def test_slots_hold_the_last_position_written_there(length: int, window: int, room: int) -> None:
    room = min(room, window)
    written: dict[int, int] = {}
    for position in range(length):
        written[position % window] = position
    found = slots(length, room, window).tolist()
    assert [max(-1, position) for position in found] == [written.get(slot, -1) for slot in range(room)]


@given(st.lists(st.integers(1, 14), min_size=1, max_size=8), st.sampled_from([None, 1, 5, 8]))
def test_a_ring_holds_what_was_written_last(sizes: list[int], window: int | None) -> None:
    ring, length = Ring(window), 0
    for size in sizes:
        numbers = torch.arange(length, length + size).float().view(1, -1, 1)
        ring.write(Kept(numbers, -numbers), length)
        length += size
    assert ring.kept is not None
    held = {int(p): (float(k), float(v)) for p, k, v in zip(
        ring.positions(length), ring.kept.keys[0, :, 0], ring.kept.values[0, :, 0], strict=True) if p >= 0}  # fmt: skip
    first = max(0, length - window) if window else 0
    assert held == {p: (float(p), -float(p)) for p in range(first, length)}
    assert ring.kept.keys.shape[1] <= (window or 2 * length)


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
        before = [tensor.clone() for ring in stream.rings for tensor in ring.kept]
        made = plan(questions, behind=stream.length)
        found = model.log_probs(model.hidden(made, stream, stream.length))
        assert all(torch.equal(a, b) for a, b in zip(before, (t for r in stream.rings for t in r.kept), strict=True))
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
    assert max(held.values()) == held[300] == WINDOW * one


@pytest.mark.parametrize("wrong", ["overwritten too early", "off by one at the wrap", "one slot too few"])
def test_a_planted_fault_would_be_seen(model, reference, monkeypatch, wrong):
    if wrong == "overwritten too early":
        whole = Ring.write
        monkeypatch.setattr(Ring, "write", lambda self, new, start: whole(self, new, start + 1))
    elif wrong == "off by one at the wrap":
        whole_slots = cache.slots
        monkeypatch.setattr(cache, "slots", lambda length, room, window: whole_slots(length + 1, room, window))
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
