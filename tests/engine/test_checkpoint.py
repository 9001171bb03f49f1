"""What is read from a folder, and what is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from guard.engine import native
from guard.engine.engine import TorchEngine
from guard.engine.folder import model_folder
from guard.engine.native import BuildFailed
from guard.engine.request import Request
from guard.errors import ModelUnavailable
from tests.families import saved
from tests.oracles import tiny_mistral


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelUnavailable, match="config.json"):
        TorchEngine.load(tmp_path)


def test_another_architecture_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelUnavailable, match="gpt2"):
        TorchEngine.load(tmp_path)


def test_broken_weights(tmp_path):
    tiny_mistral(tmp_path, window=None)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ModelUnavailable, match="weights"):
        TorchEngine.load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    tiny_mistral(tmp_path, window=None)
    kept = load_file(tmp_path / "model.safetensors")
    del kept["model.layers.1.mlp.up_proj.weight"]
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="up_proj"):
        TorchEngine.load(tmp_path)


def test_a_name_that_is_no_folder_and_cannot_be_fetched(monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ModelUnavailable, match="some/model"):
        model_folder("some/model")


def test_a_hub_name_is_fetched_and_loaded(tmp_path, monkeypatch):
    tiny_mistral(tmp_path, window=4)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    engine = TorchEngine.load(model_folder("some/model"))
    assert engine.max_tokens == 4
    assert isinstance(engine.score([Request(((5,), (6,)), ((9,),), 2)])[0], tuple)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_act", "gelu"), ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(tmp_path, name, value):
    tiny_mistral(tmp_path, window=None, **{name: value})
    with pytest.raises(ModelUnavailable, match=str(value["rope_type"] if isinstance(value, dict) else value)):
        TorchEngine.load(tmp_path)


def test_native_kernels_that_cannot_be_had(tmp_path, monkeypatch):
    """`auto` goes on with the portable ones; `native` says what is the matter."""

    def broken():
        raise BuildFailed("no compiler, say")

    tiny_mistral(tmp_path, window=None)
    monkeypatch.setattr(native, "library", broken)
    assert [k.name for k in TorchEngine.load(tmp_path)._model.kernels.values()] == ["torch"]
    with pytest.raises(ModelUnavailable, match="no compiler, say"):
        TorchEngine.load(tmp_path, kernels="native")


def test_the_model_id_changes_with_the_weights(tmp_path):
    for seed in (1, 2):
        tiny_mistral(tmp_path / str(seed) / "m", window=None, seed=seed)
    one, two = (TorchEngine.load(tmp_path / str(seed) / "m").model_id for seed in (1, 2))
    assert one.startswith("m@") and two.startswith("m@") and one != two


def changed(folder: Path, **fields: Any) -> Path:
    """The folder, with other fields in its configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("gemma2", {"sliding_window": -4}, "sliding_window is -4"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("mistral", {"sliding_window": "all"}, "sliding_window"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ("gemma3", {"use_bidirectional_attention": True}, "looks ahead"),
        ("mistral", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}, "'mine'"),
        ("mistral", {"hidden_size": 64}, "has the shape"),
        ("mistral", {"num_attention_heads": 3}, "has the shape"),
        ("mistral", {"num_hidden_layers": 9}, "no weights for model.layers.4"),
        ("mistral", {"num_hidden_layers": 2}, "knows no model.layers.2"),
        ("mixtral", {"num_experts_per_tok": 9}, "9, of 4 experts"),
    ],
)
def test_a_configuration_that_contradicts_itself_or_the_weights(tmp_path, family, fields, said):
    saved(tmp_path, family)
    with pytest.raises(ModelUnavailable, match=said):
        TorchEngine.load(changed(tmp_path, **fields))


@pytest.mark.parametrize("text", ["[]", "{", "\xff", '"mistral"'])
def test_a_configuration_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelUnavailable, match="config.json"):
        TorchEngine.load(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path):
    tiny_mistral(tmp_path, window=None)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        TorchEngine.load(tmp_path)


def test_code_in_the_folder_is_not_run(tmp_path):
    tiny_mistral(tmp_path, window=None)
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    changed(tmp_path, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    TorchEngine.load(tmp_path)  # as the family that it says it is
    assert not (tmp_path / "ran").exists()
