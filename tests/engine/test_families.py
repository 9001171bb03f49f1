"""Every supported family, tiny and random, against Hugging Face's own eager forward pass in float32.

Each family's particular features are switched off one at a time, and the comparison has to notice.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention
from transformers import AutoModelForCausalLM

from guard.engine import model as model_module
from guard.engine.engine import TorchEngine
from guard.engine.model import TreeModel
from guard.engine.request import LogProbs, Request, answers
from tests.families import FAMILIES, WINDOW, furthest, saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("family")
            saved(made[name], name)
        return made[name]

    return of


def requests(seed: int = 0) -> list[Request]:
    draw = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 61) for _ in range(length))

    prefix = ids(2 * WINDOW + 1)
    labels = ((7,), (7, 8), (9,), (10, 11, 12))
    return [Request((prefix, ids(length), ids(3)), labels, 2) for length in (1, WINDOW, 3 * WINDOW)]


@torch.no_grad()
def eager(folder: Path, asked: list[Request]) -> list[LogProbs]:
    """Each label on its own, from the whole sequence, by transformers."""
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    found = []
    for request in asked:
        path = [token for segment in request.segments for token in segment]
        sums = []
        for answer in answers(request):
            log_probs = reference(torch.tensor([[*path, *answer]])).logits[0].float().log_softmax(-1)
            sums.append(sum(float(log_probs[len(path) + i - 1, token]) for i, token in enumerate(answer)))
        found.append(tuple(sums))
    return found


@pytest.mark.parametrize("kernels", ["auto", "torch", "flex"])
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_hugging_faces(folder, name, kernels, monkeypatch):
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # tracing takes seconds
    engine = TorchEngine.load(folder(name), dtype="float32", kernels=kernels)
    assert furthest(engine.score(requests()), eager(folder(name), requests())) < 1e-4


def geometries(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    whole = model_module._geometry

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_module, "_geometry", lambda *args: dataclasses.replace(whole(*args), **changes))

    return change


def layers(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    whole = model_module.Layer.of

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        def of(*args: Any) -> Any:
            layer = whole(*args)
            return dataclasses.replace(layer, **{k: v(layer) if callable(v) else v for k, v in changes.items()})

        monkeypatch.setattr(model_module.Layer, "of", of)

    return change


def attribute(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        whole = TreeModel.__init__

        def changed(self: Any, *args: Any) -> None:
            whole(self, *args)
            setattr(self, name, value)

        monkeypatch.setattr(TreeModel, "__init__", changed)

    return change


def one_rotary(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model_module._rotary
    monkeypatch.setattr(model_module, "_rotary", lambda module, kind: whole(module, "full_attention"))


def biasless(layer: Any) -> Any:
    for linear in (*layer.inputs, layer.out):
        linear._bias = None
    return layer.inputs


FEATURES: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "window of mistral": ("mistral", geometries(window=None)),
    "window off by one": ("mistral", geometries(window=WINDOW + 1)),
    "window of some layers": ("qwen2", geometries(window=None)),
    "biases": ("qwen2", layers(inputs=biasless)),
    "norm of queries and keys": ("qwen3", layers(query_norm=None, key_norm=None)),
    "soft cap of scores": ("gemma2", geometries(soft_cap=None)),
    "soft cap of logits": ("gemma2", attribute("_soft_cap", None)),
    "scale of queries": ("gemma2", geometries(scale=8**-0.5)),
    "scale of embeddings": ("gemma2", attribute("_embedding_scale", 1.0)),
    "norm behind attention": ("gemma2", layers(after_attention=None)),
    "norm behind the mlp": ("gemma2", layers(after_mlp=None)),
    "window of gemma 3": ("gemma3", geometries(window=None)),
    "own frequencies of local layers": ("gemma3", one_rotary),
    "norm of queries and keys of gemma 3": ("gemma3", layers(query_norm=None, key_norm=None)),
    "window of phi3": ("phi3", geometries(window=None)),
    "number of experts": ("mixtral", layers(mlp=lambda layer: dataclasses.replace(layer.mlp, chosen=1))),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_switched_off_is_missed(folder, monkeypatch, feature):
    name, switch_off = FEATURES[feature]
    switch_off(monkeypatch)
    engine = TorchEngine.load(folder(name), dtype="float32")
    assert furthest(engine.score(requests()), eager(folder(name), requests())) > 1e-3


def test_a_row_of_experts_does_not_depend_on_company(folder):
    engine = TorchEngine.load(folder("mixtral"), dtype="float32")
    together = engine.score(requests())
    alone = [engine.score([request])[0] for request in requests()]
    assert furthest(together, alone) < 1e-5


def test_hybrid_windows_keep_the_whole_text_in_view_and_plain_ones_do_not(folder):
    assert TorchEngine.load(folder("gemma2")).max_tokens == 128
    assert TorchEngine.load(folder("mistral")).max_tokens == WINDOW


def test_longrope_is_held_to_its_first_length(folder):
    assert TorchEngine.load(folder("phi3 longrope")).max_tokens == 100
