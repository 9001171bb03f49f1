"""Weights in 8 and 4 bits: what they hold, how far they are from full precision, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from guard.engine.engine import TorchEngine
from guard.engine.linear import laid_out
from guard.engine.quantized import linear_maker
from guard.engine.request import Request
from guard.errors import ModelUnavailable
from tests.families import furthest, ids, saved

KINDS = {"int8": (0.02, 0.52), "int4": (0.15, 0.30), "nf4": (0.15, 0.30)}  # relative error, share of bfloat16's bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """int4 divides matrices into 16 by 64."""
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=61, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("wide")
    MistralForCausalLM(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_is_nearly_itself_in_fewer_bytes(kind, dtype):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(192, 384) * 0.05, torch.randn(192), torch.randn(40, 384)
    exact = x @ weight.T + bias
    layer = linear_maker(kind)(weight.to(dtype), bias.to(dtype))
    with torch.inference_mode():
        found = layer(x.to(dtype))
        added = layer.plus(x.to(dtype), torch.ones(40, 192, dtype=dtype))
    most, share = KINDS[kind]
    assert found.dtype is dtype
    assert 1e-4 < (found.float() - exact).norm() / exact.norm() < most
    assert torch.allclose(added.float(), found.float() + 1, atol=0.1)
    assert layer.num_bytes < share * laid_out(weight.bfloat16()).num_bytes * (1 if dtype is torch.bfloat16 else 1.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_nearly_as_at_full_precision(folder, kind):
    asked = [Request((ids(20), ids(length, length), ids(3)), ((7,), (7, 8), (9,)), 2) for length in (1, 8, 30)]
    full, rounded = (TorchEngine.load(folder, dtype="float32", weights=weights) for weights in ("full", kind))
    assert 0 < furthest(full.score(asked), rounded.score(asked)) < 0.1
    assert rounded.model_id == f"{full.model_id}+{kind}"
    assert rounded._model.num_bytes < 0.3 * full._model.num_bytes
    alone = [rounded.score([request])[0] for request in asked]
    assert furthest(alone, rounded.score(asked)) < 1e-4


def test_a_matrix_that_does_not_divide_is_refused(tmp_path):
    saved(tmp_path, "llama")
    with pytest.raises(ModelUnavailable, match="does not divide into int4 groups") as caught:
        TorchEngine.load(tmp_path, weights="int4")
    assert caught.value.hint == "Take int8, or full."


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao.quantization"), ("nf4", "bitsandbytes")])
def test_a_library_that_is_not_there_is_named(monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelUnavailable, match=library) as caught:
        linear_maker(kind)
    assert "guard-moderation[quantized]" in caught.value.hint
