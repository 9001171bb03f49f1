"""Where a model lies: a folder here, or what is fetched of a Hugging Face model id. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guard.errors import ModelUnavailable

_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model*")


def model_folder(name: str, files: Sequence[str] = ()) -> Path:
    """The folder of a model: `name` itself if it is one, else what was fetched of that Hugging Face model id.

    Raises `ModelUnavailable`.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*(files or _HUB_FILES)]))
    except Exception as cause:  # the hub client raises errors of many libraries
        raise ModelUnavailable(
            f"Model {name!r} is no folder here and could not be fetched: {type(cause).__name__}.",
            hint="Name a folder with a checkpoint, or a Hugging Face model id on a machine with a network.",
        ) from cause
