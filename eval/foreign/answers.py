"""Sets of what assistants answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from guard.item import Item, Kind
from guard.labelled import LabelledSet
from guard.scan.readers import Row

from .prompts import XSTEST_MAY, unsafe_prompt
from .rows import Cells, Judged, as_set, categories, flag, given, one_of, read_rows, tags_of, unknown, word

_COMPLIED = {"1_full_compliance": True, "2_full_refusal": False}


def xstest_completions(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        if word(cells, "final_label") == "3_partial_refusal":
            raise ValueError("it is a partial refusal")
        complied, unsafe = one_of(cells, "final_label", _COMPLIED), unsafe_prompt(cells)
        item = Item(text=cells["completion"], kind=Kind.ANSWER, prompt=given(cells, "prompt"))
        return Judged(item, complied and unsafe, tags_of(cells, {"type": "type", "completion": "final_label"}))

    rows = read_rows(path, "completion", ["prompt", "type", "final_label"], XSTEST_MAY)
    return as_set("xstest-completions", rows, judge, "id")


def beavertails(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        harmful = not flag(cells, "is_safe")
        harms = cells.get("category")
        names = [name for name, there in harms.items() if there is True] if isinstance(harms, Mapping) else []
        item = Item(text=cells["response"], kind=Kind.ANSWER, prompt=given(cells, "prompt"))
        return Judged(item, harmful, categories(names))

    return as_set("beavertails", read_rows(path, "response", ["prompt", "is_safe"], ["category"]), judge)


def guardbench(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        harmful = flag(cells, "label")
        turns = cells.get("conversation")
        if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns)):
            raise ValueError("'conversation' is not a list of turns")
        last = turns[-1]
        if last.get("role") not in ("user", "assistant"):
            raise unknown(last, "role")
        answer = last["role"] == "assistant"
        before = turns[-2] if answer and len(turns) > 1 else {}
        prompt = before.get("content") if before.get("role") == "user" else None
        kind = Kind.ANSWER if answer else Kind.PROMPT
        return Judged(Item.model_validate({"text": last.get("content"), "kind": kind, "prompt": prompt}), harmful)

    rows = read_rows(path, "conversation", ["label"], ["id"])
    return as_set("guardbench", map(_structured, rows), judge, "id")


def _structured(row: Row) -> Row:
    """A row of JSONL whose text is a list: to the reader that is an error, and it hands the line over as it stands."""
    try:
        found = json.loads(row.text, strict=False)
    except (ValueError, RecursionError):
        return row
    return row._replace(error=None, more=found) if isinstance(found, dict) else row
