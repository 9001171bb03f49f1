"""Generation against transformers' own, and that neither company, nor a fault, nor who leaves changes a text."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from guard.engine.engine import TorchEngine, Turns
from guard.engine.generate import Batcher, Ended, Generation, Sampling, chosen
from guard.engine.model import TreeModel
from guard.engine.request import Request
from guard.errors import EngineError
from tests.families import ids, saved
from tests.oracles import tiny_mistral

WINDOW = 8
LENGTHS = (1, 5, WINDOW, 2 * WINDOW + 1, 30)


@pytest.fixture(scope="module", params=[WINDOW, None])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("generate")
    tiny_mistral(made, window=request.param, max_position_embeddings=256)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> TreeModel:
    return TreeModel.load(folder, "float32")


@pytest.fixture()
def engine(folder: Path) -> TorchEngine:
    return TorchEngine.load(folder, dtype="float32")


def greedy(folder: Path, prompt: tuple[int, ...], count: int) -> list[int]:
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    reference.generation_config.eos_token_id = None
    asked = torch.tensor([prompt])
    out = reference.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


def finished(batcher: Batcher, *generations: Generation) -> None:
    while any(generation.ended is None for generation in generations):
        batcher.step()


def test_greedy_is_transformers_token_for_token_alone_and_in_a_batch(folder, model):
    sampling = Sampling(max_tokens=24)
    expected = {length: greedy(folder, ids(length, length), 24) for length in LENGTHS}
    for most, chunk in ((1, 4), (3, 4), (5, 100)):
        batcher = Batcher(model, chunk, most)
        found = {length: batcher.submit(ids(length, length), sampling) for length in LENGTHS}
        finished(batcher, *found.values())
        assert {length: generation.tokens for length, generation in found.items()} == expected
        assert all(generation.ended is Ended.LENGTH for generation in found.values())
        assert batcher.num_bytes == 0 and not batcher.busy


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "mixtral"])
def test_other_families_too(tmp_path, family):
    saved(tmp_path, family)
    batcher = Batcher(TreeModel.load(tmp_path, "float32"), 6, 4)
    found = [batcher.submit(ids(length, length), Sampling(max_tokens=12)) for length in (3, 20)]
    finished(batcher, *found)
    assert [generation.tokens for generation in found] == [greedy(tmp_path, ids(n, n), 12) for n in (3, 20)]


def test_a_sampled_text_depends_on_its_seed_and_not_on_company(model):
    def text(seed: int, company: int) -> list[int]:
        batcher = Batcher(model, 4, 8)
        mine = batcher.submit(ids(6), Sampling(max_tokens=16, temperature=1.0, top_p=0.9, seed=seed))
        others = [
            batcher.submit(ids(5 + n, n), Sampling(max_tokens=9, temperature=2.0, seed=n)) for n in range(company)
        ]
        finished(batcher, mine, *others)
        return mine.tokens

    assert text(1, 0) == text(1, 3)
    assert len({tuple(text(seed, 0)) for seed in range(6)}) > 1


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.05, 1.0), st.floats(0.1, 3.0), st.integers(0, 99)
)
def test_only_the_nucleus_is_drawn_from(logits, top_p, temperature, seed):
    log_probs = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    token = chosen(log_probs, Sampling(temperature=temperature, top_p=top_p), torch.Generator().manual_seed(seed))
    probabilities = (log_probs / temperature).softmax(-1)
    likelier = probabilities[probabilities > probabilities[token]].sum()
    assert float(likelier) < top_p


def test_draws_follow_the_probabilities():
    log_probs, draws = torch.tensor([0.6, 0.3, 0.1]).log(), torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([chosen(log_probs, Sampling(temperature=1.0), draws) for _ in range(4000)]))
    assert torch.allclose(counts / 4000, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


def test_stop_tokens_end_a_text_and_are_not_given_out(model):
    batcher = Batcher(model, 4, 4)
    whole = batcher.submit(ids(5), Sampling(max_tokens=10))
    finished(batcher, whole)
    stop = whole.tokens[4]
    stopped = batcher.submit(ids(5), Sampling(max_tokens=10, stops=frozenset({stop})))
    finished(batcher, stopped)
    assert stopped.ended is Ended.STOP and stopped.tokens == whole.tokens[: whole.tokens.index(stop)]


def test_who_is_cancelled_frees_memory_at_once_and_the_others_go_on(model):
    batcher = Batcher(model, 4, 2)
    alone = batcher.submit(ids(5), Sampling(max_tokens=10))
    finished(batcher, alone)
    one, other, waiting = (batcher.submit(ids(5), Sampling(max_tokens=10)) for _ in range(3))
    for _ in range(4):
        batcher.step()
    both = batcher.num_bytes
    one.cancel()
    waiting.cancel()
    batcher.step()
    assert one.ended is waiting.ended is Ended.CANCELLED and batcher.num_bytes < both
    finished(batcher, other)
    assert other.tokens == alone.tokens and list(one) == one.tokens


def test_a_text_that_fails_ends_alone(model, monkeypatch):
    batcher = Batcher(model, 4, 4)
    alone = batcher.submit(ids(5), Sampling(max_tokens=10))
    finished(batcher, alone)
    bad, good = (batcher.submit(ids(5), Sampling(max_tokens=10)) for _ in range(2))
    for _ in range(4):
        batcher.step()
    guilty, whole = bad._stream, TreeModel.decode

    def decode(self: TreeModel, streams: Any, tokens: Any) -> Any:
        hidden = whole(self, streams, tokens)
        if any(stream is guilty for stream in streams):
            for stream in streams:
                stream.length -= 1  # as if it had failed in the last layer
            raise MemoryError("no room")
        return hidden

    monkeypatch.setattr(TreeModel, "decode", decode)
    finished(batcher, bad, good)
    assert bad.ended is Ended.ERROR and good.tokens == alone.tokens
    with pytest.raises(EngineError, match="MemoryError"):
        list(bad)


def test_numbers_that_are_none_end_the_text(model, monkeypatch):
    monkeypatch.setattr(TreeModel, "log_probs", lambda self, hidden: torch.full((len(hidden), 61), float("nan")))
    batcher = Batcher(model, 4, 4)
    text = batcher.submit(ids(5), Sampling(max_tokens=9))
    finished(batcher, text)
    with pytest.raises(EngineError, match="not finite"):
        list(text)


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ((), {}, "empty"),
        ((99,), {"max_tokens": 1}, "vocabulary"),
        ((5,) * 10, {"max_tokens": 250}, "positions"),
        ((5,), {"max_tokens": 0}, "max_tokens"),
        ((5,), {"temperature": -1.0}, "temperature"),
        ((5,), {"top_p": 0.0}, "top_p"),
    ],
)
def test_what_cannot_be_generated(engine, prompt, settings, said):
    with pytest.raises(EngineError, match=said):
        engine.generate(prompt, Sampling(**settings))


def test_an_engine_generates_and_scores_at_the_same_time(engine):
    question = Request((ids(4), ids(3), ids(2)), ((7,), (9,)), 2)
    expected, alone = engine.score([question]), list(engine.generate(ids(5), Sampling(max_tokens=60)))
    texts = [engine.generate(ids(5), Sampling(max_tokens=60)) for _ in range(3)]
    waited = []
    for _ in range(5):
        began = time.monotonic()
        assert engine.score([question]) == expected
        waited.append(time.monotonic() - began)
    assert [list(text) for text in texts] == [alone] * 3
    assert max(waited) < 5


def test_a_text_waits_for_room(folder, model):
    needed = model.pages(15)
    one = needed * model.pool.page_bytes
    model = TreeModel.load(folder, "float32", memory_bytes=2 * one)
    batcher = Batcher(model, 4, 8)
    texts = [batcher.submit(ids(5, n), Sampling(max_tokens=10)) for n in range(5)]
    most = 0
    while any(text.ended is None for text in texts):
        batcher.step()
        most = max(most, len(batcher._running))
        assert batcher.num_bytes <= 2 * one
    assert most == 2 and all(text.ended is Ended.LENGTH for text in texts)
    with pytest.raises(EngineError, match="bytes"):
        Batcher(TreeModel.load(folder, "float32", memory_bytes=one - 1), 4, 8).submit(ids(5), Sampling(max_tokens=10))


def test_a_reader_who_leaves_ends_the_text(engine):
    text = engine.generate(ids(5), Sampling(max_tokens=200))
    for _ in text:
        break
    for _ in range(500):
        if text.ended is not None:
            break
        time.sleep(0.01)
    assert text.ended is Ended.CANCELLED and len(text.tokens) < 200


def test_a_step_that_fails_as_a_whole_leaves_nobody_waiting(engine, monkeypatch):
    def broken(self: Batcher) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(Batcher, "step", broken)
        with pytest.raises(EngineError, match="RuntimeError"):
            list(engine.generate(ids(5), Sampling(max_tokens=4)))
    assert len(list(engine.generate(ids(5), Sampling(max_tokens=4)))) == 4


def test_turns_go_to_who_waited_longest():
    turns, order = Turns(), []

    def take(name: int) -> None:
        with turns:
            order.append(name)

    with turns:
        threads = [threading.Thread(target=take, args=(name,)) for name in range(5)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_running_text_is_asked_as_a_whole_one_is(engine):
    text, question = ids(3), ids(2)
    stream = engine.stream()
    engine.extend(stream, text[:1])
    engine.extend(stream, text[1:])
    labels = ((7,), (7, 8), (9,))
    (found,) = engine.ask(stream, [Request(((), question), labels, 2)])
    (whole,) = engine.score([Request((text, question), labels, 2)])
    assert found == pytest.approx(whole, abs=1e-4)


def test_bad_questions_and_broken_texts_are_errors(engine, monkeypatch):
    stream, good = engine.stream(), Request(((), (5,)), ((7,), (9,)), 2)
    with pytest.raises(EngineError, match="no text"):
        engine.ask(stream, [good])
    engine.extend(stream, ids(4))
    bad = [Request(((4,), (5,)), ((7,),), 2), Request(((), (5,)), (), 2), Request(((), (99,)), ((7,),), 2)]
    found = engine.ask(stream, [bad[0], good, *bad[1:]])
    assert [isinstance(one, EngineError) for one in found] == [True, False, True, True]
    with pytest.raises(EngineError, match="vocabulary"):
        engine.extend(stream, (99,))
    with pytest.raises(EngineError, match="positions"):
        engine.extend(stream, ids(300))

    def full(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(TreeModel, "extend", full)
        with pytest.raises(EngineError, match="MemoryError"):
            engine.extend(stream, (5,))
    with pytest.raises(EngineError, match="before"):
        engine.extend(stream, (5,))
    with pytest.raises(EngineError, match="no text"):
        engine.ask(stream, [good])


def test_the_worker_rests_while_all_wait_for_room(folder, model, monkeypatch):
    """Running texts of others hold the memory; who waits is taken in when they end."""
    tight = TreeModel.load(folder, "float32", memory_bytes=model.pages(100) * model.pool.page_bytes)
    engine, steps, whole = TorchEngine(tight), [], Batcher.step
    monkeypatch.setattr(Batcher, "step", lambda self: steps.append(1) or whole(self))
    other = engine.stream()
    engine.extend(other, ids(100))
    text = engine.generate(ids(5), Sampling(max_tokens=10))
    time.sleep(0.3)
    assert not text.tokens and 0 < len(steps) < 100
    other.close()
    assert len(list(text)) == 10


def test_a_text_that_ended_is_read_again_and_takes_nothing_in(engine):
    text = engine.generate(ids(5), Sampling(max_tokens=4))
    assert list(text) == text.tokens and list(text) == []
    stream = engine.stream()
    engine.extend(stream, ids(5))
    free = engine._model.pool.free_pages
    stream.close()
    with pytest.raises(EngineError, match="before"):
        engine.extend(stream, ids(2))
    with pytest.raises(EngineError, match="ended"):
        stream.reserve(20)
    assert engine._model.pool.free_pages > free


@pytest.mark.parametrize("settings", [{"temperature": float("nan")}, {"temperature": float("inf")}])
def test_temperatures_that_are_none(settings):
    with pytest.raises(EngineError, match="temperature"):
        Sampling(**settings)


def test_what_one_text_asks_of_its_draws_is_no_fault_of_the_others(model, monkeypatch):
    batcher = Batcher(model, 8, 4)
    cold = batcher.submit(ids(5), Sampling(max_tokens=5, temperature=1e-39, seed=2**70))
    greedy_one = batcher.submit(ids(5), Sampling(max_tokens=5))
    finished(batcher, cold, greedy_one)
    assert cold.tokens == greedy_one.tokens  # too cold to draw
    from guard.engine import generate

    whole = generate.chosen

    def choose(log_probs: torch.Tensor, sampling: Sampling, draws: torch.Generator) -> int:
        if sampling.seed == 7:
            raise RuntimeError("a fault in the draw")
        return whole(log_probs, sampling, draws)

    bad, good = (batcher.submit(ids(5), Sampling(max_tokens=5, seed=seed)) for seed in (7, 0))
    monkeypatch.setattr(generate, "chosen", choose)
    finished(batcher, bad, good)
    assert bad.ended is Ended.ERROR and good.tokens == greedy_one.tokens


def test_closing_ends_every_text_and_the_worker(engine):
    texts = [engine.generate(ids(5), Sampling(max_tokens=200)) for _ in range(3)]
    worker = engine._worker
    engine.close()
    assert worker is not None and not worker.is_alive()
    assert all(text.ended is not None for text in texts)
    with pytest.raises(EngineError, match="closed"):
        engine.generate(ids(5), Sampling())


def test_a_process_that_ends_while_a_text_grows_ends_cleanly(folder):
    script = (
        "import sys; from pathlib import Path\n"
        "from guard.engine.engine import TorchEngine\n"
        "from guard.engine.generate import Sampling\n"
        "engine = TorchEngine.load(Path(sys.argv[1]), dtype='float32')\n"
        "text = engine.generate((5, 6), Sampling(max_tokens=200))\n"
        "print(next(iter(text)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_an_interrupted_wait_gives_its_turn_on(monkeypatch):
    turns = Turns()
    with turns:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(
                threading.Event, "wait", lambda self, timeout=None: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            turns.__enter__()
        assert len(turns._waiting) == 1
    with turns:
        pass
    assert not turns._waiting
