"""A scan as it was asked for: what is read, how it is judged, where the verdicts go."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard import __version__
from guard.errors import InvalidFile
from guard.item import Kind
from guard.moderator import Moderator
from guard.policy import Policy
from guard.scan.blocks import CHARACTERS, ROWS, WINDOW
from guard.scan.columns import Columns
from guard.scan.inputs import would_find
from guard.scan.readers import Reader, open_input
from guard.scan.streams import is_url
from guard.scan.writers import BESIDE, COLUMNS, STDOUT, check_output, errors_file

_ASKED_WITH = (
    "dtype", "weights", "kernels", "batch_tokens", "passage_tokens", "passage_overlap", "max_passages",
    "defences",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """`inputs` are files, folders, patterns, URLs or "-"; `query` and `order` belong to a database's URL.

    `output` is a file, a URL or "-"; the ledger lies beside it unless `ledger` names another place. The policy has
    been narrowed to the categories asked for.
    """

    inputs: tuple[str, ...]
    output: str
    policy: Policy
    kind: Kind
    columns: Columns = field(default_factory=Columns)
    format: str | None = None
    encoding: str = "utf-8"
    query: str | None = None
    order: str | None = None
    keep_text: bool = True
    ledger: str | None = None

    def reader(self) -> Reader:
        """A new reader of the input. Raises `InvalidFile`."""
        return open_input(
            self.inputs, self.columns.text, self.columns.id, self.columns.more, format=self.format,
            encoding=self.encoding, query=self.query, order=self.order,
        )  # fmt: skip

    def check(self) -> None:
        """Can this be scanned so? Raises `InvalidFile`; cheap, so it can be asked before a model is loaded."""
        self.reader().check()
        check_output(self.output)
        if self.output == STDOUT or is_url(self.output):
            return
        for written in map(Path, (self.output, errors_file(self.output))):
            if any(Path(name).exists() and written.exists() and written.samefile(name) for name in self.inputs):
                raise InvalidFile(f"{written}: the scan would overwrite its own input.", hint="Name another output.")
            if any(would_find(name, str(written)) for name in self.inputs):
                raise InvalidFile(
                    f"{written}: lies where the input is looked for, and would be part of it the next time.",
                    hint="Name an output elsewhere.",
                )

    @property
    def resumable(self) -> bool:
        """Can a run that was stopped go on? Not from or to a pipe."""
        return "-" not in (*self.inputs, self.output)

    @property
    def place(self) -> str:
        """Where the ledger is."""
        return self.ledger or f"{self.output}.ledger"

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Of the records, in order."""
        return (*COLUMNS, *(name for name in BESIDE if self.keep_text or name != "text"))

    def key(self, moderator: Moderator) -> dict[str, Any]:
        """All that the verdicts depend on beside the input, whose content the ledger's entries hold."""
        asked = moderator.ask(moderator.task("example", policy=self.policy, kind=self.kind))
        if asked.failed:
            raise asked.failed
        settings = moderator.settings.model_dump(mode="json", include=set(_ASKED_WITH))
        return {
            "guard": __version__,
            "policy": self.policy.hash,
            "prompt": [prompt.hash for prompt, _ in asked.wordings],
            "model": moderator.engine.model_id,
            "kind": self.kind.value,
            "columns": dataclasses.asdict(self.columns),
            "format": self.format,
            "encoding": self.encoding,
            "query": self.query,
            "order": self.order,
            "text": self.keep_text,
            "blocks": [ROWS, CHARACTERS, WINDOW],
            **settings,
        }
