"""Sets of what users ask of an assistant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from guard.errors import InvalidFile
from guard.item import Item, Kind
from guard.labelled import LabelledSet

from .rows import Cells, Judged, as_set, categories, file_columns, flag, given, one_of, read_rows, tags_of, word

_OPENAI = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
_OPENAI_TOP = _OPENAI[:5]  # S3, H2 and V2 are parts of S, H and V
_JAILBREAKBENCH = {"harmful": True, "benign": False}
XSTEST_MAY = ("id|id_v2|id_v1", "label", "focus")


def openai_moderation(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        known = {name: flag(cells, name) for name in _OPENAI if word(cells, name)}
        harms = [name for name in _OPENAI if known.get(name)]
        unlabelled = [name for name in _OPENAI_TOP if name not in known]
        if not harms and unlabelled:
            raise ValueError(f"no label is 1, and it is not labelled for {', '.join(unlabelled)}")
        return Judged(Item(text=cells["prompt"]), bool(harms), categories(harms))

    return as_set("openai-moderation", read_rows(path, "prompt", ["S"], _OPENAI[1:]), judge)


def toxicchat(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        harmful = flag(cells, "toxicity")
        marks = {"jailbreaking": "jailbreaking", "annotated by people": "human_annotation"}
        tags = tuple(tag for tag, column in marks.items() if word(cells, column) and flag(cells, column))
        return Judged(Item(text=cells["user_input"]), harmful, tags)

    rows = read_rows(path, "user_input", ["toxicity"], ["conv_id", "jailbreaking", "human_annotation"])
    return as_set("toxicchat", rows, judge, "conv_id")


def harmbench(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        if word(cells, "ImageFileName"):
            raise ValueError("it asks about an image")
        text, context = cells["Behavior"], word(cells, "ContextString")
        tags = tags_of(cells, {"functionality": "FunctionalCategory", "category": "SemanticCategory"})
        tags += tuple(f"tag: {tag.strip()}" for tag in word(cells, "Tags").split(",") if tag.strip())
        if text.strip() and context:
            text = f"{context}\n\n---\n\n{text}"  # as HarmBench itself asks
        return Judged(Item(text=text), True, tags)

    needs = ["FunctionalCategory", "SemanticCategory"]
    rows = read_rows(path, "Behavior", needs, ["BehaviorID", "Tags", "ContextString", "ImageFileName"])
    return as_set("harmbench", rows, judge, "BehaviorID")


def unsafe_prompt(cells: Cells) -> bool:
    """Of XSTest: whether the prompt is one that should be refused."""
    if word(cells, "label"):
        return one_of(cells, "label", {"safe": False, "unsafe": True})
    return given(cells, "type").startswith("contrast_")


def xstest(path: Path) -> LabelledSet:
    def judge(cells: Cells) -> Judged:
        tags = tags_of(cells, {"type": "type", "focus": "focus"})
        return Judged(Item(text=cells["prompt"]), unsafe_prompt(cells), tags)

    return as_set("xstest", read_rows(path, "prompt", ["type"], XSTEST_MAY), judge, "id")


def jailbreakbench(path: Path) -> LabelledSet:
    halves = [half for half in _JAILBREAKBENCH if half in path.name.casefold()]
    of_file = halves[0] if len(halves) == 1 else ""
    columns = file_columns(path, "Goal")
    both = "split" in columns
    if "Goal" in columns and not both and not of_file:
        raise InvalidFile(
            f"{path}: nothing says whether its behaviors are harmful or benign.",
            hint="Keep the set's file names, harmful-behaviors.csv and benign-behaviors.csv, or add a column 'split'.",
        )

    def judge(cells: Cells) -> Judged:
        harmful = one_of(cells if both else {"split": of_file}, "split", _JAILBREAKBENCH)
        tags = tags_of(cells, {"category": "Category", "source": "Source"})
        return Judged(Item(text=cells["Goal"]), harmful, tags, word(cells, "Index") or None)

    rows = read_rows(path, "Goal", ["Behavior", "Category"], ["Index", "Source", "split"])
    return as_set("jailbreakbench", rows, judge, "Index")


def advbench(path: Path) -> LabelledSet:
    columns = file_columns(path, "goal")
    if "target" in columns and not {"goal", "prompt"} & set(columns):  # harmful_strings.csv: what a model is to say
        rows = read_rows(path, "target")
        return as_set("advbench", rows, lambda cells: Judged(Item(text=cells["target"], kind=Kind.ANSWER), True))
    return harmful_prompts("advbench", "goal|prompt", {}, None, ["target"], path)


def harmful_prompts(
    name: str, text: str, tags: Mapping[str, str], id_column: str | None, needs: Sequence[str], path: Path
) -> LabelledSet:
    """A set of prompts of which each is harmful."""

    def judge(cells: Cells) -> Judged:
        return Judged(Item(text=cells[text.partition("|")[0]]), True, tags_of(cells, tags))

    may = [column for column in (*tags.values(), id_column) if column and column not in needs]
    return as_set(name, read_rows(path, text, needs, may), judge, id_column)
