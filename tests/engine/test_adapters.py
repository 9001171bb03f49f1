"""LoRA adapters against PEFT's own merge: several in one batch, one set of weights; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from guard.engine.adapters import CONFIG, WEIGHTS
from guard.engine.engine import TorchEngine
from guard.engine.generate import Sampling
from guard.engine.request import BASE, Request
from guard.errors import EngineError, ModelUnavailable
from tests.families import WINDOW, furthest, ids, saved

# PEFT asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# name -> family, PEFT's settings
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("mistral", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "some": ("mistral", {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj", "down_proj"], "use_rslora": True}),
    "patterns": (
        "mistral",
        {"r": 2, "lora_alpha": 4, "target_modules": [*ATTENTION, "up_proj"], "layers_to_transform": [0, 2],
         "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 9, "layers.2.self_attn.k_proj": 1}},
    ),
    "biased": ("qwen2", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "sandwich": ("gemma2", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "joint": ("phi3", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "experts": ("mixtral", {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION}),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, Path]]:
    """The folders of an adapter's base, of the adapter, and of the two merged by PEFT."""
    found: dict[str, tuple[Path, Path, Path]] = {}
    bases: dict[str, Path] = {}

    def of(name: str) -> tuple[Path, Path, Path]:
        if name not in found:
            family, settings = ADAPTERS[name]
            if family not in bases:
                bases[family] = tmp_path_factory.mktemp("base")
                saved(bases[family], family)
            adapter, merged = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp(f"{name}-merged")
            model = AutoModelForCausalLM.from_pretrained(bases[family], dtype=torch.float32)
            tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
            torch.manual_seed(len(name))
            with torch.no_grad():
                for key, parameter in tuned.named_parameters():
                    if "lora_" in key:  # B begins as zeros
                        parameter.copy_(torch.randn_like(parameter) * 0.2)
            tuned.save_pretrained(adapter)
            tuned.merge_and_unload().save_pretrained(merged)
            found[name] = bases[family], adapter, merged
        return found[name]

    return of


def requests(adapter: str = BASE) -> list[Request]:
    labels = ((7,), (7, 8), (9,), (10, 11, 12))
    return [
        Request((ids(2 * WINDOW + 1), ids(length, length), ids(3)), labels, 2, adapter)
        for length in (1, WINDOW, 3 * WINDOW)
    ]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_acts_as_if_it_were_merged(made, name):
    base, adapter, merged = made(name)
    engine = TorchEngine.load(base, dtype="float32", adapters={name: adapter})
    expected = TorchEngine.load(merged, dtype="float32").score(requests())
    assert furthest(engine.score(requests(name)), expected) < 1e-4
    plain = TorchEngine.load(base, dtype="float32").score(requests())
    assert engine.score(requests()) == plain
    assert furthest(plain, expected) > 0.1  # or the adapter would prove nothing


@pytest.fixture(scope="module")
def several(made) -> tuple[TorchEngine, dict[str, TorchEngine]]:
    """One engine with adapters, and an engine on each one's merged weights."""
    names = ["all", "some", "patterns"]
    engine = TorchEngine.load(made("all")[0], dtype="float32", adapters={name: made(name)[1] for name in names})
    merged = {name: TorchEngine.load(made(name)[2], dtype="float32") for name in names}
    return engine, {**merged, BASE: TorchEngine.load(made("all")[0], dtype="float32")}


def test_one_batch_holds_several_adapters_beside_one_set_of_weights(several):
    engine, alone = several
    asked = [request for trio in zip(*(requests(name) for name in alone), strict=True) for request in trio]
    found = engine.score(asked)
    for name, other in alone.items():
        mine = [result for request, result in zip(asked, found, strict=True) if request.adapter == name]
        assert furthest(mine, other.score(requests())) < 1e-4
    model = engine._model
    for layers in model._under.values():
        bases = [getattr(layer.out, "_base", layer.out) for layer in layers]
        assert all(base is layer.out for base, layer in zip(bases, model._layers, strict=True))


def test_texts_under_several_adapters_grow_side_by_side(several):
    engine, alone = several
    prompt = ids(2 * WINDOW)
    together = {name: engine.generate(prompt, Sampling(max_tokens=12), name) for name in alone}
    found = {name: list(text) for name, text in together.items()}
    assert found == {name: list(other.generate(prompt, Sampling(max_tokens=12))) for name, other in alone.items()}
    assert len(set(map(tuple, found.values()))) > 1


def test_a_running_text_is_asked_about_under_its_adapter(several):
    engine, alone = several
    text, (question,) = ids(3 * WINDOW), requests()[:1]
    behind = Request(((), ids(4, 9)), question.labels, 2)
    found = []
    for judge, adapter in ((engine, "all"), (alone["all"], BASE)):
        stream = judge.stream(adapter)
        judge.extend(stream, text)
        found.append(judge.ask(stream, [behind]))
    assert furthest(*found) < 1e-4
    other = Request(((), ids(4, 9)), question.labels, 2, "some")
    stream = engine.stream("all")
    engine.extend(stream, text)
    (error,) = engine.ask(stream, [other])
    assert isinstance(error, EngineError) and "under the adapter 'all'" in str(error)


def test_an_adapter_that_is_not_loaded_is_named(several):
    engine, _ = several
    good, bad = engine.score([requests("all")[0], requests("nobody")[0]])
    assert isinstance(good, tuple)
    assert isinstance(bad, EngineError) and "'nobody'" in str(bad) and "all, patterns, some" in bad.hint
    with pytest.raises(EngineError, match="'nobody'"):
        engine.stream("nobody")
    with pytest.raises(EngineError, match="'nobody'"):
        engine.generate(ids(3), Sampling(), "nobody")


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        change(settings)
        (folder / CONFIG).write_text(json.dumps(settings))

    return edit


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return edit


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another method": (edited(lambda s: s.update(peft_type="IA3")), "type 'IA3'"),
    "magnitudes": (edited(lambda s: s.update(use_dora=True)), "use_dora"),
    "whole modules": (edited(lambda s: s.update(modules_to_save=["lm_head"])), "modules_to_save"),
    "biases": (edited(lambda s: s.update(bias="all")), "bias 'all'"),
    "weights changed at the start": (edited(lambda s: s.update(init_lora_weights="pissa")), "init_lora_weights"),
    "a setting of the future": (edited(lambda s: s.update(use_miracles=True)), "use_miracles"),
    "no settings": (lambda folder: (folder / CONFIG).unlink(), "adapter_config.json cannot be read"),
    "no scale": (edited(lambda s: s.pop("lora_alpha")), "adapter_config.json cannot be read"),
    "pickled": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "safetensors cannot be read"),
    "broken": (lambda folder: (folder / WEIGHTS).write_bytes(b"\x08"), "safetensors cannot be read"),
    "another model's": (rewritten(lambda t: t.update({KEY.format("A"): torch.ones(4, 31)})), "32 by 32, which A"),
    "no B": (rewritten(lambda t: t.pop(KEY.format("B"))), "and B None"),
    "no A": (rewritten(lambda t: t.pop(KEY.format("A"))), "a B has no A"),
    "a layer too many": (
        rewritten(lambda t: t.update({KEY.format("A").replace(".0.", ".9."): torch.ones(4, 32)})), "layers.9",
    ),
    "embeddings": (
        rewritten(lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 61)})),
        "embed_tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_computed_is_refused(made, tmp_path, fault):
    base, adapter, _ = made("all")
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    change, message = FAULTS[fault]
    change(folder)
    with pytest.raises(ModelUnavailable, match=message):
        TorchEngine.load(base, dtype="float32", adapters={"all": folder})


def test_experts_are_not_corrected(made, tmp_path):
    base, adapter, _ = made("experts")
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    key = KEY.format("A").replace("self_attn.q_proj", "mlp.gate_proj")
    rewritten(lambda t: t.update({key: torch.ones(4, 32)}))(folder)
    with pytest.raises(ModelUnavailable, match="gate_proj"):
        TorchEngine.load(base, dtype="float32", adapters={"experts": folder})
