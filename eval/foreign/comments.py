"""Sets of comments and posts."""

from __future__ import annotations

from pathlib import Path

from guard.item import Item, Kind
from guard.labelled import LabelledSet

from .rows import Cells, Judged, as_set, categories, flag, one_of, read_rows, share, tags_of, word

_HATECHECK = {"hateful": True, "non-hateful": False}
_JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
_CIVIL = ("severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")
_HALF = 0.5  # of the raters, as in the competition of the set


def hatecheck(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        words = {"functionality": "functionality", "target": "target_ident", "direction": "direction"}
        item = Item(text=cells["test_case"], kind=Kind.COMMENT)
        return Judged(item, one_of(cells, "label_gold", _HATECHECK), tags_of(cells, words))

    rows = read_rows(path, "test_case", ["functionality", "label_gold"], ["case_id", "target_ident", "direction"])
    return as_set("hatecheck", rows, judge, "case_id")


def jigsaw_toxic(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        if any(word(cells, name) in ("-1", "-1.0") for name in _JIGSAW):
            raise ValueError("its labels are -1: not scored")
        harms = [name for name in _JIGSAW if flag(cells, name)]
        return Judged(Item(text=cells["comment_text"], kind=Kind.COMMENT), bool(harms), categories(harms))

    stem, dot, suffixes = path.name.partition(".")
    beside = path.with_name(f"{stem}_labels{dot}{suffixes}")
    if not beside.is_file():
        return as_set("jigsaw-toxic", read_rows(path, "comment_text", _JIGSAW, ["id"]), judge, "id")
    labels = {row.more["id"]: row.more for row in read_rows(beside, "id", _JIGSAW) if row.error is None}
    texts = read_rows(path, "comment_text", ["id"])
    rows = (row._replace(more={**labels.get(row.more.get("id", ""), {}), **row.more}) for row in texts)
    return as_set("jigsaw-toxic", rows, judge, "id")


def civil_comments(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        harmful = share(cells, "toxicity") >= _HALF
        harms = [name for name in _CIVIL if word(cells, name) and share(cells, name) >= _HALF]
        return Judged(Item(text=cells["text"], kind=Kind.COMMENT), harmful, categories(harms))

    rows = read_rows(path, "text|comment_text", ["toxicity|target"], ["id", *_CIVIL])
    return as_set("civil-comments", rows, judge, "id")
