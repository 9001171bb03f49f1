"""A Hugging Face causal language model with our attention in it: loading, refusing, and one forward pass."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as hf_logging

from guard.engine import attention
from guard.engine.cache import Prefix
from guard.engine.request import Ids
from guard.engine.tree import Node, Plan
from guard.errors import ModelUnavailable

SUPPORTED = ("mistral",)
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model*"]
_FULLY_HASHED = 2**28  # bytes; of a larger weight file only both ends are hashed, so that starting stays quick
_ENDS = 2**20


def model_folder(name: str) -> Path:
    """The folder of a model: `name` itself if it is one, else the download of that Hugging Face model id.

    Raises `ModelUnavailable`.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as cause:  # the hub client raises errors of many libraries
        raise ModelUnavailable(
            f"Model {name!r} is no folder here and could not be fetched: {type(cause).__name__}.",
            hint="Name a folder with a checkpoint, or a Hugging Face model id on a machine with a network.",
        ) from cause


class TreeModel:
    """The weights, and `hidden` and `log_probs` over them."""

    def __init__(self, model: Any, model_id: str) -> None:
        self._model = model
        self.model_id = model_id
        config = model.config
        self.vocab_size: int = config.vocab_size
        self.num_layers: int = config.num_hidden_layers
        self.window: int | None = getattr(config, "sliding_window", None)
        self.max_positions: int = config.max_position_embeddings
        self.device = next(model.parameters()).device

    @classmethod
    def load(cls, folder: Path, dtype: str) -> TreeModel:
        """Read a checkpoint. Raises `ModelUnavailable` for what is missing, broken or not supported."""
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ModelUnavailable(
                f"{folder}: config.json cannot be read: {cause}", hint="Check the folder."
            ) from cause
        if config.model_type not in SUPPORTED:
            raise ModelUnavailable(
                f"{folder}: models of type {config.model_type!r} are not supported.",
                hint=f"Supported: {', '.join(SUPPORTED)}.",
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=pick_dtype(dtype, device),
                attn_implementation="guard_tree",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as cause:  # safetensors, transformers and torch each have their own errors here
            raise ModelUnavailable(
                f"{folder}: the weights cannot be read: {type(cause).__name__}: {cause}",
                hint="The folder must hold complete model*.safetensors files.",
            ) from cause
        absent = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
        if absent:  # transformers would fill them with random numbers
            raise ModelUnavailable(f"{folder}: no weights for {absent[0]}, {len(absent)} in all.", hint="Get them all.")
        model.eval().to(device)
        return cls(model, f"{folder.resolve().name}@{fingerprint(folder)}")

    @torch.inference_mode()
    def hidden(self, made: Plan, prefix: Prefix | None, prefix_length: int) -> Tensor:
        """Last hidden states of a plan's N tokens: (N, d)."""
        return self._forward(made, attention.prepare(made, prefix, prefix_length, self.window, self.device))

    @torch.inference_mode()
    def prefill(self, tokens: Ids) -> Prefix:
        """Keys and values of a prefix that stands at the beginning."""
        size = len(tokens)
        made = Plan(list(tokens), list(range(size)), [Node(0, size, ())], [])
        batch = attention.prepare(made, None, 0, self.window, self.device, capture=True)
        self._forward(made, batch)
        captured = batch.captured or []
        return Prefix(tuple(k.contiguous() for k, _ in captured), tuple(v.contiguous() for _, v in captured))

    @torch.inference_mode()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """(R, d) -> (R, V), float32."""
        return self._model.lm_head(hidden).float().log_softmax(-1)  # type: ignore[no-any-return]

    def _forward(self, made: Plan, batch: attention.Batch) -> Tensor:
        ids = torch.tensor(made.tokens, device=self.device)[None]
        positions = torch.tensor(made.positions, device=self.device)[None]
        out = self._model.model(input_ids=ids, position_ids=positions, use_cache=False, tree=batch)
        return out.last_hidden_state[0]  # type: ignore[no-any-return]


def pick_dtype(name: str, device: str) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device == "cuda":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def fingerprint(folder: Path) -> str:
    """Twelve hex digits over configuration, tokenizer and weights; large weight files count by size and both ends."""
    digest = hashlib.sha256()
    names = [p for p in sorted(folder.iterdir()) if p.suffix in {".json", ".safetensors", ".jinja"} and p.is_file()]
    for path in names:
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            if size <= _FULLY_HASHED:
                while block := file.read(_ENDS):
                    digest.update(block)
            else:
                digest.update(file.read(_ENDS))
                file.seek(-_ENDS, 2)
                digest.update(file.read(_ENDS))
    return digest.hexdigest()[:12]
