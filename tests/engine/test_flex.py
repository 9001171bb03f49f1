"""The kernels for GPUs, on the CPU through the same interface: trees, running texts, and many texts at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention

from guard.engine.engine import TorchEngine
from guard.engine.flex import Step, descent
from guard.engine.generate import Batcher, Sampling
from guard.engine.model import TreeModel
from guard.engine.request import Request
from guard.engine.tree import plan
from tests.families import furthest, ids, saved
from tests.oracles import tiny_mistral

WINDOW = 8


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU FlexAttention is traced anew for every shape, which takes seconds; the masks are the same without."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture(scope="module", params=[WINDOW, None])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("flex")
    tiny_mistral(made, window=request.param, max_position_embeddings=128)
    return made


def loaded(folder: Path, kernels: str) -> TreeModel:
    model = TreeModel.load(folder, "float32", kernels, memory_bytes=2**16)
    model.page = 3
    return model


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[TreeModel, TreeModel]:
    return loaded(folder, "flex"), loaded(folder, "torch")


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=6))
def test_a_token_is_seen_from_its_own_node_and_those_below(paths: list[list[int]]) -> None:
    asked = [Request(((1,), *((token,) for token in path)), ((7,), (7, 8)), 2) for path in paths]
    made = plan(asked)
    node, end = descent(made)
    for below in made.nodes:
        for row in range(below.start, below.end):
            seen = [i for i in range(len(made.tokens)) if node[i] <= node[row] < end[i]]
            assert seen == sorted(below.keys)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3", "mixtral"])
def test_texts_side_by_side_grow_as_they_do_one_by_one(tmp_path, family):
    """Three texts in four places; some end early, so that the tables are made anew."""
    saved(tmp_path, family)
    found = {}
    for kernels in ("torch", "flex"):
        batcher = Batcher(loaded(tmp_path, kernels), 20, 8)
        texts = [batcher.submit(ids(1 + 6 * n, n), Sampling(max_tokens=3 + 3 * n)) for n in range(3)]
        while batcher.busy:
            batcher.step()
        found[kernels] = [text.tokens for text in texts]
    assert found["flex"] == found["torch"]


def test_a_running_text_is_extended_and_asked(both):
    labels = ((7,), (7, 8), (9,))
    found = []
    for model in both:
        engine = TorchEngine(model, batch_tokens=9)
        stream = engine.stream()
        answers = []
        for n in (1, 7, 20):
            engine.extend(stream, ids(n, n))
            answers += engine.ask(stream, [Request(((), ids(m, m)), labels, 2) for m in (1, 4, 11)])
        found.append(answers)
    assert furthest(*found) < 1e-4


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_tables_serve_any_texts_in_any_order(both, seed):
    """Texts come, go and change places between steps."""
    draw, (flex, torch_) = random.Random(seed), both
    texts: list[tuple[object, object]] = []
    for _ in range(5):
        if len(texts) < 3 and (not texts or draw.random() < 0.6):
            start = ids(draw.randrange(1, 12), draw.randrange(99))
            pair = (flex.stream(), torch_.stream())
            for model, stream in zip((flex, torch_), pair, strict=True):
                model.extend(stream, start, 4)
            texts.append(pair)
        elif draw.random() < 0.3:
            texts.pop(draw.randrange(len(texts)))
        if not texts:
            continue
        draw.shuffle(texts)
        tokens = [draw.randrange(3, 61) for _ in texts]
        found = flex.decode([a for a, _ in texts], tokens)
        expected = torch_.decode([b for _, b in texts], tokens)
        assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("wrong", ["owner", "turn", "windows"])
def test_a_planted_fault_would_be_seen(both, monkeypatch, wrong):
    whole = Step.begin

    def begin(self: Step) -> None:
        whole(self)
        if wrong == "windows":
            self.held = self.held - 1
        else:
            getattr(self, wrong).copy_(getattr(self, wrong).roll(1))

    monkeypatch.setattr(Step, "begin", begin)
    hidden = []
    for model in both:
        streams = [model.stream() for _ in range(3)]
        for n, stream in enumerate(streams):
            model.extend(stream, ids(5 + n, n), 20)
        hidden.append(model.decode(streams, [5, 6, 7]))
    assert not torch.allclose(*hidden, atol=1e-2)
