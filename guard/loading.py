"""From settings to a moderator: the only place that knows which engine belongs to which model name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from guard.calibration import Calibration
from guard.engine.request import Engine, RunningEngine
from guard.engine.sizing import Machine, Shape
from guard.errors import ModelUnavailable
from guard.moderator import Moderator
from guard.resources import shipped
from guard.settings import Settings
from guard.tokenizer import Tokenizer, load_tokenizer


def load_moderator(settings: Settings, *, apart: bool = False) -> Moderator:
    """Load the model, its tokenizer and its calibration; the model into a process of its own, if `apart`.

    Raises `ModelUnavailable` or `InvalidPolicy`.
    """
    folder = folder_of(settings.model)
    tokenizer = load_tokenizer(folder)
    if apart:
        from guard.engine.process import EngineProcess

        engine: Engine = EngineProcess(partial(load_engine, settings))
    else:
        engine = load_engine(settings)
    if tokenizer.size > engine.vocab_size:
        raise ModelUnavailable(
            f"{folder}: the tokenizer has {tokenizer.size} tokens and the model {engine.vocab_size}.",
            hint="Take tokenizer and weights of one model.",
        )
    return Moderator(
        engine, tokenizer, calibration=Calibration.load(folder), languages=_languages(folder),
        settings=settings,
    )  # fmt: skip


def load_speaker(settings: Settings, judge: Moderator) -> tuple[RunningEngine[Any], Tokenizer]:
    """The model that answers in a chat, in a process of its own; the judge's own engine where it is the same model.

    Raises `ModelUnavailable`.
    """
    assert settings.assistant is not None
    if settings.assistant == settings.model:
        engine, tokenizer = judge.engine, judge.tokenizer
    else:
        from guard.engine.process import EngineProcess

        tokenizer = load_tokenizer(folder_of(settings.assistant))
        engine = EngineProcess(partial(load_engine, settings.model_copy(update={"model": settings.assistant})))
    if not isinstance(engine, RunningEngine):
        raise ModelUnavailable(f"{settings.assistant}: this model cannot make text.", hint="Name another assistant.")
    return engine, tokenizer


def load_engine(settings: Settings) -> Engine:
    """The engine that the settings describe, in this process. Raises `ModelUnavailable`."""
    if settings.model == "fake":
        from guard.engine.fake import FakeEngine

        return FakeEngine()
    from guard.engine.engine import TorchEngine

    return TorchEngine.load(
        folder_of(settings.model),
        dtype=settings.dtype,
        kernels=settings.kernels,
        weights=settings.weights,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        memory_bytes=settings.memory_mb * 2**20,
    )


def folder_of(model: str, files: Sequence[str] = ()) -> Path:
    """Where a model's files lie; the fake engine borrows the embedded model's. Raises `ModelUnavailable`.

    Of a model that has to be fetched, only `files` are, if any are named.
    """
    if model in ("embedded", "fake"):
        return shipped("models") / "embedded"
    from guard.engine.folder import model_folder

    return model_folder(model, files)


def shape_of(model: str) -> Shape:
    """A model's sizes, from its configuration alone. Raises `ModelUnavailable`."""
    from guard.engine import checkpoint

    return checkpoint.shape_of(checkpoint.config_of(folder_of(model, ["config.json"])))


def ceilings() -> Machine:
    """What this machine can do at most; takes a few seconds."""
    from guard.engine.ceilings import measured

    return measured()


def _languages(folder: Path) -> tuple[str, ...] | None:
    """The languages that a model folder says it was made for (`guard.json`), or None."""
    file = folder / "guard.json"
    if not file.is_file():
        return None
    try:
        return tuple(json.loads(file.read_text(encoding="utf-8"))["languages"])
    except (OSError, ValueError, KeyError) as cause:
        raise ModelUnavailable(f"{file}: cannot be read: {cause}", hint="Mend or remove it.") from cause
