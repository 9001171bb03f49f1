"""What of a scan is done: one file per block of verdicts, and one that says what is scanned and how.

    OUT.ledger/
      scan.json         hashes of policy, prompt and model, and the settings: what the verdicts depend on
      000000.jsonl      line 1: the entry (rows, where the input stood, counts, checksum); then the records of the
      000001.jsonl      block in the order of the rows; then what goes to OUT.errors.jsonl
      finished.json     size and checksum of the output that was made of them

The one rule: a block is committed by the appearance of its file, verdicts and entry at once, so there is no moment at
which one is there without the other. Files are named by the block's number and a block depends on the input alone:
committing it twice, as machines of a cluster may, is committing it once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from guard.errors import InvalidFile
from guard.scan.blocks import Block, Mark
from guard.scan.row import Position
from guard.scan.store import Store
from guard.verdict import Decision

Record = Mapping[str, Any]
FORMAT = 1
_KEY, _FINISHED = "scan.json", "finished.json"
_BLOCK = re.compile(r"[0-9]{6,}\.jsonl")
_HEAD = 2**16  # bytes of a block's file that hold its entry


@dataclass(frozen=True)
class Entry:
    """A committed block. `sum` is over the lines behind the entry; `digest` over the input up to `end`."""

    block: int
    rows: int
    end: Position
    digest: str
    last: bool
    decisions: dict[str, int]
    categories: dict[str, int]
    sum: str

    @property
    def mark(self) -> Mark:
        return Mark(self.end, self.digest)

    @property
    def errors(self) -> int:
        """Rows without a verdict."""
        return self.decisions.get(Decision.ERROR.value, 0)


class Ledger:
    """The blocks in a store, beginning with number 0 and without a gap. Raises `InvalidFile`.

    `key` is what the verdicts depend on. A ledger of another key is refused, or emptied, if the scan is to `restart`.
    """

    def __init__(self, store: Store, key: Mapping[str, Any], restart: bool = False) -> None:
        self.store = store
        names = set(store.names())
        if names and _KEY not in names:
            raise InvalidFile(f"{store.place}: not a scan's ledger.", hint="Name another place.")
        if restart:
            ours = {_KEY, _FINISHED, *filter(_BLOCK.fullmatch, names)} & names
            store.remove(sorted(ours, reverse=True))  # the key goes last
            names = set()
        self._require(key, names)
        self.entries: list[Entry] = []
        while (name := _name(len(self.entries))) in names:
            self.entries.append(self._entry(name))

    def _require(self, key: Mapping[str, Any], names: Collection[str]) -> None:
        """Is this the ledger of the same scan? A new one gets the key."""
        wanted = _in_full(key)
        if _KEY not in names:
            self.store.put(_KEY, (json.dumps(wanted, indent=1) + "\n").encode())
            return
        there = json.loads(_content(self.store, _KEY))
        changed = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]
        if changed:
            was = ", ".join(
                f"{name} (was {_short(there.get(name))}, is {_short(wanted.get(name))})" for name in changed
            )
            raise InvalidFile(
                f"{self.store.place}: begun with other settings: {was}.",
                hint="Repeat the settings of then, name another output, or throw its verdicts away with --restart.",
            )

    def add(self, entry: Entry) -> None:
        """Count a block that was committed: the next one, or one that was there in another form."""
        self.entries[entry.block : entry.block + 1] = [entry]

    def drop_last(self) -> Entry:
        """Forget the last block: it is judged anew."""
        last = self.entries.pop()
        self.store.remove([_FINISHED, _name(last.block)])
        return last

    def scattered(self) -> list[Entry]:
        """The blocks behind a gap, as a cluster leaves them that was stopped."""
        blocks = [int(name.partition(".")[0]) for name in self.store.names() if _BLOCK.fullmatch(name)]
        return [self._entry(_name(block)) for block in sorted(blocks) if block > len(self.entries)]

    def lines(self, block: int) -> tuple[list[bytes], list[bytes]]:
        """A block's records, and its rows without a verdict, as lines of JSON."""
        return _lines(self.store, block)

    def records(self, block: int) -> list[dict[str, Any]]:
        """A block's records."""
        return records_of(self.store, block)

    def finish(self, written: Mapping[str, Any]) -> None:
        """Say what was made of all blocks."""
        self.store.put(_FINISHED, _line(written))

    def finished(self) -> dict[str, Any] | None:
        """What `finish` was told, unless blocks were added since."""
        content = self.store.get(_FINISHED)
        return None if content is None else json.loads(content)

    def _entry(self, name: str) -> Entry:
        try:
            return Entry(**json.loads(_content(self.store, name, _HEAD).partition(b"\n")[0]))
        except (ValueError, TypeError) as cause:
            raise _damaged(self.store, name) from cause

    def tally(self, of: str) -> dict[str, int]:
        """All blocks' `decisions` or `categories`, the most frequent first."""
        total: Counter[str] = Counter()
        for entry in self.entries:
            total.update(getattr(entry, of))
        return dict(total.most_common())

    @property
    def sum(self) -> str:
        """Checksum over all blocks."""
        return _sum("".join(entry.sum for entry in self.entries).encode())


def commit(store: Store, block: Block, records: Sequence[Record], errors: Sequence[Record]) -> Entry:
    """Write a block's verdicts, one record per row, and what is to be said of the rows without one."""
    lines = b"".join(_line(one) for one in (*records, *errors))
    entry = Entry(
        block=block.number,
        rows=len(records),
        end=block.end,
        digest=block.digest,
        last=block.last,
        decisions=dict(Counter(one["decision"] for one in records)),
        categories=dict(Counter(name for one in records for name in one["categories"])),
        sum=_sum(lines),
    )
    store.put(_name(block.number), _line(asdict(entry)) + lines)
    return entry


def begun(store: Store, key: Mapping[str, Any]) -> bool:
    """Does the scan with this key keep its ledger there?"""
    there = store.get(_KEY)
    return there is not None and json.loads(there) == _in_full(key)


def records_of(store: Store, block: int) -> list[dict[str, Any]]:
    """The records of a block that was committed. Raises `InvalidFile` if they are damaged."""
    return [json.loads(line) for line in _lines(store, block)[0]]


def _lines(store: Store, block: int) -> tuple[list[bytes], list[bytes]]:
    first, _, rest = _content(store, _name(block)).partition(b"\n")
    entry = Entry(**json.loads(first))
    if _sum(rest) != entry.sum:
        raise _damaged(store, _name(block))
    lines = rest.splitlines(keepends=True)
    return lines[: entry.rows], lines[entry.rows :]


def _content(store: Store, name: str, size: int | None = None) -> bytes:
    content = store.get(name, size)
    if content is None:
        raise _damaged(store, name)
    return content


def _damaged(store: Store, name: str) -> InvalidFile:
    return InvalidFile(
        f"{store.place}/{name}: changed or removed since it was written.",
        hint="Restore it, or judge everything again with --restart.",
    )


def _in_full(key: Mapping[str, Any]) -> dict[str, Any]:
    """A key as it stands in its file."""
    found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **key}))
    return found


def _name(block: int) -> str:
    return f"{block:06}.jsonl"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _sum(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _short(value: object) -> str:
    return str(value)[:12] if isinstance(value, str) else json.dumps(value)
