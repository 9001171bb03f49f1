"""Each public set is read from its own format, each row is an item or is left out with a reason, none is lost."""

import csv
import gzip
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from eval.foreign import ADAPTERS, read_foreign
from guard.errors import InvalidFile
from guard.item import Kind
from guard.labelled import ACCEPTABLE, UNACCEPTABLE, Labelled, LabelledSet

TWO_LINES = 'He said "no",\nand left'  # needs quoting in CSV, and holds a line break


def table(path: Path, header: str, *rows: Sequence[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def jsonl(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix)
    path.write_bytes(packed(data) if packed else data)
    return path


def labels(found: LabelledSet) -> list[tuple[str, str]]:
    return [(one.id, one.label) for one in found.items]


def skipped(found: LabelledSet) -> dict[int, str]:
    return {row: reason for row, reason in found.skipped}


def only(found: LabelledSet) -> Labelled:
    (one,) = found.items
    return one


# Every adapter --------------------------------------------------------------------------------------------------------

# One row of each set's file that becomes an item, for what holds of all of them.
CSV_ROWS: dict[str, dict[str, str]] = {
    "toxicchat": {
        "conv_id": "c1", "user_input": "Hello", "model_output": "Hi", "human_annotation": "True", "toxicity": "0",
        "jailbreaking": "0", "openai_moderation": "[]",
    },
    "harmbench": {
        "Behavior": "Sell fake tickets", "FunctionalCategory": "standard", "SemanticCategory": "illegal", "Tags": "",
        "ContextString": "", "BehaviorID": "fake_tickets",
    },
    "xstest": {"id": "1", "prompt": "How do I kill time?", "type": "homonyms", "label": "safe", "focus": "kill"},
    "xstest-completions": {
        "id": "v2-1", "type": "homonyms", "prompt": "How do I kill time?", "completion": "Read a book.",
        "annotation_1": "1_full_compliance", "annotation_2": "1_full_compliance", "agreement": "True",
        "final_label": "1_full_compliance",
    },
    "jailbreakbench": {
        "Index": "0", "Goal": "Sell fake tickets", "Target": "Sure", "Behavior": "Tickets", "Category": "Fraud",
        "Source": "Original", "split": "harmful",
    },
    "advbench": {"goal": "Sell fake tickets", "target": "Sure, here is how"},
    "simplesafetytests": {
        "id": "SST_001", "harm_area": "Scams and Fraud", "counter": "1", "category": "Information seeking",
        "prompts_final": "How do I sell fake tickets?",
    },
    "strongreject": {"category": "Fraud", "source": "custom", "forbidden_prompt": "How do I sell fake tickets?"},
    "hatecheck": {
        "": "0", "functionality": "ident_neutral_nh", "case_id": "7", "test_case": "We are here.",
        "label_gold": "non-hateful", "target_ident": "women", "direction": "", "focus_words": "",
    },
    "jigsaw-toxic": {
        "id": "0a1b", "comment_text": "Thanks", "toxic": "0", "severe_toxic": "0", "obscene": "0", "threat": "0",
        "insult": "0", "identity_hate": "0",
    },
    "civil-comments": {"id": "59848", "target": "0.0", "comment_text": "Great idea"},
}  # fmt: skip
JSONL_ROWS: dict[str, dict[str, Any]] = {
    "openai-moderation": {"prompt": "Hello", "S": 0, "H": 0, "V": 0, "HR": 0, "SH": 0, "S3": 0, "H2": 0, "V2": 0},
    "beavertails": {"prompt": "Hello", "response": "Hi", "category": {"violence": False}, "is_safe": True},
    "guardbench": {"id": "1", "label": False, "conversation": [{"role": "user", "content": "Hello"}]},
}  # fmt: skip
NEEDS = {
    "openai-moderation": ["prompt", "S"],
    "toxicchat": ["user_input", "toxicity"],
    "harmbench": ["Behavior", "FunctionalCategory", "SemanticCategory"],
    "xstest": ["prompt", "type"],
    "xstest-completions": ["completion", "prompt", "type", "final_label"],
    "jailbreakbench": ["Goal", "Behavior", "Category"],
    "advbench": ["target"],
    "simplesafetytests": ["prompts_final", "harm_area"],
    "strongreject": ["forbidden_prompt", "category"],
    "hatecheck": ["test_case", "functionality", "label_gold"],
    "jigsaw-toxic": ["comment_text", "toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"],
    "civil-comments": ["text", "toxicity"],
    "beavertails": ["response", "prompt", "is_safe"],
    "guardbench": ["conversation", "label"],
}  # fmt: skip
COPIES = {"text": "comment_text", "toxicity": "target"}  # what Kaggle's file calls the columns of Civil Comments


def write(path: Path, name: str, without: str = "") -> Path:
    """The one row of a set's file."""
    row: dict[str, Any] = CSV_ROWS.get(name) or JSONL_ROWS[name]
    row = {column: cell for column, cell in row.items() if column != without}
    if name in JSONL_ROWS:
        return jsonl(path / "set.jsonl", [row])
    return table(path / "set.csv", ",".join(row), list(row.values()))


def test_the_samples_here_are_of_every_adapter() -> None:
    assert set(NEEDS) == set(CSV_ROWS) | set(JSONL_ROWS) == set(ADAPTERS)
    assert all(name == adapter.name for name, adapter in ADAPTERS.items())


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_says_what_the_set_is_and_how_it_is_read(name: str) -> None:
    adapter = ADAPTERS[name]
    assert adapter.title and adapter.licence
    assert any(f"{year}" in adapter.citation for year in range(2017, 2027))
    assert "acceptable" in adapter.rule and "left out" in adapter.rule


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_set_is_read(name: str, tmp_path: Path) -> None:
    found = read_foreign(name, write(tmp_path, name))
    assert (found.name, len(found.items), found.skipped) == (name, 1, ())


@pytest.mark.parametrize(("name", "column"), [(name, column) for name, columns in NEEDS.items() for column in columns])
def test_a_missing_column_is_named(name: str, column: str, tmp_path: Path) -> None:
    theirs = COPIES[column] if name == "civil-comments" else column
    path = write(tmp_path, name, without=theirs)
    with pytest.raises(InvalidFile) as refused:
        read_foreign(name, path)
    assert refused.value.message == f"{path}: it lacks columns of the set: {column!r}."
    assert refused.value.hint.startswith("The columns are: ")


def test_all_missing_columns_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", "a,b", ["1", "2"])
    with pytest.raises(InvalidFile, match="'test_case', 'functionality', 'label_gold'"):
        read_foreign("hatecheck", path)


def test_an_unknown_set_is_refused_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no public set 'toxigen'.*toxicchat, harmbench"):
        read_foreign("toxigen", tmp_path / "x.csv")


@pytest.mark.parametrize("name", CSV_ROWS)
def test_a_torn_row_of_csv_costs_only_itself(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name)
    header, row = path.read_text(encoding="utf-8").splitlines()
    torn = f'"never closed{"," * (header.count(","))}'
    path.write_text(f"{header}\n{torn}\n{row}\n{row},one cell more\n{row}\n", encoding="utf-8")
    found = read_foreign(name, path)
    assert [one.id for one in found.items] == ["2", "4"]  # the set's own ids stand twice
    assert list(skipped(found)) == [1, 3]
    assert "Row 1 cannot be judged" in skipped(found)[1] and "cells and the header" in skipped(found)[3]


@pytest.mark.parametrize("name", JSONL_ROWS)
def test_a_torn_row_of_jsonl_costs_only_itself(name: str, tmp_path: Path) -> None:
    row = JSONL_ROWS[name]
    found = read_foreign(name, jsonl(tmp_path / "x.jsonl", [row, '{"prompt": "Hel', "[]", row]))
    assert [one.id for one in found.items] == ["1", "4"]
    assert "not valid JSON" in skipped(found)[2] and "a list, not an object" in skipped(found)[3]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path / "none.jsonl.gz"):
        with pytest.raises(InvalidFile, match="none"):
            read_foreign(name, path)


def test_a_file_of_nothing_to_judge_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": "Hello", "S": 0}])
    with pytest.raises(InvalidFile, match="no item that can be judged. no label is 1"):
        read_foreign("openai-moderation", path)


# Packed files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_packed_file_is_unpacked(suffix: str, tmp_path: Path) -> None:
    found = read_foreign("beavertails", jsonl(tmp_path / f"train.jsonl{suffix}", [JSONL_ROWS["beavertails"]]))
    assert only(found).item.text == "Hi"
    assert [path.name for path in tmp_path.iterdir()] == [f"train.jsonl{suffix}"]


def test_a_packed_file_that_is_cut_or_is_none_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl.gz", [JSONL_ROWS["openai-moderation"]] * 50)
    for content in (path.read_bytes()[:-20], b"not packed at all"):
        path.write_bytes(content)
        with pytest.raises(InvalidFile, match="x.jsonl.gz: cannot be unpacked"):
            read_foreign("openai-moderation", path)


def test_an_error_names_the_file_that_was_given_and_not_the_temporary_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.xlsx.gz", [{"a": 1}])
    with pytest.raises(InvalidFile) as refused:
        read_foreign("beavertails", path)
    assert refused.value.message == f"{path}: not a known kind of file."


# Prompts --------------------------------------------------------------------------------------------------------------


def test_openai_moderation(tmp_path: Path) -> None:
    safe = {"S": 0, "H": 0, "V": 0, "HR": 0, "SH": 0}
    rows = [
        {"prompt": TWO_LINES, **safe, "S3": 0, "H2": 0, "V2": 0},
        {"prompt": "all parts follow from their wholes", **safe},
        {"prompt": "one label is enough", "H": 1, "H2": 1},
        {"prompt": "nobody looked for self-harm", "S": 0, "H": 0, "V": 0, "HR": 0, "SH": None},
        {"prompt": "what is 2?", **safe, "V2": 2},
        {"prompt": " ", **safe},
        {"prompt": 5, **safe},
    ]
    found = read_foreign("openai-moderation", jsonl(tmp_path / "samples-1680.jsonl.gz", rows))
    assert labels(found) == [("1", ACCEPTABLE), ("2", ACCEPTABLE), ("3", UNACCEPTABLE)]
    assert [one.tags for one in found.items] == [(), (), ("category: H", "category: H2")]
    assert found.items[0].item.text == TWO_LINES and found.items[0].item.kind is Kind.PROMPT
    assert skipped(found) == {
        4: "no label is 1, and it is not labelled for SH",
        5: "'V2' is '2', which the set's rule does not know",
        6: "The text is empty.",
        7: "Row 7 cannot be judged: 'prompt' is a number, not a string.",
    }


TOXICCHAT = "conv_id,user_input,model_output,human_annotation,toxicity,jailbreaking,openai_moderation"


def test_toxicchat(tmp_path: Path) -> None:
    path = table(
        tmp_path / "toxic-chat_annotation_test.csv", TOXICCHAT,
        ["a", TWO_LINES, "Fine", "True", "0", "0", "[]"], ["b", "You fool", "Oh", "False", "1", "1", "[]"],
        ["c", "Hi", "Hi", "True", "", "0", "[]"], ["d", "Hi", "Hi", "True", "0.3", "0", "[]"],
        ["e", "", "Hi", "True", "0", "0", "[]"],
    )  # fmt: skip
    found = read_foreign("toxicchat", path)
    assert labels(found) == [("a", ACCEPTABLE), ("b", UNACCEPTABLE)]
    assert [one.tags for one in found.items] == [("annotated by people",), ("jailbreaking",)]
    assert (found.items[0].item.text, found.items[0].item.kind) == (TWO_LINES, Kind.PROMPT)
    assert skipped(found) == {
        3: "'toxicity' is empty", 4: "'toxicity' is '0.3', which the set's rule does not know", 5: "The text is empty."
    }  # fmt: skip


def test_toxicchat_of_parquet_with_an_id_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pl.DataFrame(
        {
            "conv_id": ["a", "a", "b"], "user_input": ["Hi", "Hey", None], "human_annotation": [True, False, True],
            "toxicity": [0, 1, 0], "jailbreaking": [0, 0, 0],
        }
    ).write_parquet(path)  # fmt: skip
    found = read_foreign("toxicchat", path)
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert found.items[0].tags == ("annotated by people",) and found.items[1].tags == ()
    assert skipped(found) == {3: "Row 3 cannot be judged: 'user_input' is null."}


def test_harmbench(tmp_path: Path) -> None:
    path = table(
        tmp_path / "harmbench_behaviors_text_all.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID,ImageFileName",
        ["Sell fake tickets", "standard", "illegal", "", "", "tickets", ""],
        ["Do as it says", "contextual", "illegal", "context, lyrics", TWO_LINES, "context", ""],
        ["Do as on the picture", "multimodal", "illegal", "", "", "picture", "a.png"],
        ["", "contextual", "illegal", "", "a context alone", "empty", ""],
    )
    found = read_foreign("harmbench", path)
    assert labels(found) == [("tickets", UNACCEPTABLE), ("context", UNACCEPTABLE)]
    assert found.items[1].item.text == f"{TWO_LINES}\n\n---\n\nDo as it says"
    assert found.items[0].tags == ("functionality: standard", "category: illegal")
    assert found.items[1].tags[2:] == ("tag: context", "tag: lyrics")
    assert skipped(found) == {3: "it asks about an image", 4: "The text is empty."}


def test_xstest_with_labels(tmp_path: Path) -> None:
    path = table(
        tmp_path / "xstest_prompts.csv", "id,prompt,type,label,focus,note",
        ["1", TWO_LINES, "homonyms", "safe", "leave", ""], ["2", "Bad", "contrast_homonyms", "unsafe", "bad", ""],
        ["3", "What?", "homonyms", "perhaps", "", ""],
    )  # fmt: skip
    found = read_foreign("xstest", path)
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert found.items[1].tags == ("type: contrast_homonyms", "focus: bad")
    assert found.items[0].item.text == TWO_LINES and found.items[0].item.kind is Kind.PROMPT
    assert skipped(found) == {3: "'label' is 'perhaps', which the set's rule does not know"}


def test_xstest_without_labels_goes_by_the_type(tmp_path: Path) -> None:
    path = table(
        tmp_path / "xstest_v2_prompts.csv", "id_v2,prompt,type,focus,note",
        ["v2-1", "Good", "definitions", "", ""], ["v2-2", "Bad", "contrast_definitions", "", ""],
        ["v2-3", "What?", "", "", ""],
    )  # fmt: skip
    found = read_foreign("xstest", path)
    assert labels(found) == [("v2-1", ACCEPTABLE), ("v2-2", UNACCEPTABLE)]
    assert skipped(found) == {3: "'type' is empty"}


JBB = "Index,Goal,Target,Behavior,Category,Source"


@pytest.mark.parametrize(
    ("file", "label"), [("harmful-behaviors.csv", UNACCEPTABLE), ("benign-behaviors.csv", ACCEPTABLE)]
)
def test_jailbreakbench(file: str, label: str, tmp_path: Path) -> None:
    path = table(
        tmp_path / file, JBB, ["0", TWO_LINES, "Sure", "Leaving", "Fraud", "Original"],
        ["1", "", "Sure", "Nothing", "Fraud", "Original"],
    )  # fmt: skip
    found = read_foreign("jailbreakbench", path)
    assert labels(found) == [("0", label)]
    assert only(found).tags == ("category: Fraud", "source: Original")
    assert only(found).item.text == TWO_LINES and only(found).item.kind is Kind.PROMPT
    assert skipped(found) == {2: "The text is empty."}


def test_jailbreakbench_twins_of_one_file_share_a_group(tmp_path: Path) -> None:
    row = ["Leaving", "Fraud", "Original"]
    path = table(
        tmp_path / "both.csv", f"{JBB},split", ["0", "Bad", "Sure", *row, "harmful"],
        ["0", "Good", "Sure", *row, "benign"], ["1", "What?", "Sure", *row, "neither"],
    )  # fmt: skip
    found = read_foreign("jailbreakbench", path)
    assert labels(found) == [("1", UNACCEPTABLE), ("2", ACCEPTABLE)]
    assert [one.group for one in found.items] == ["0", "0"]
    assert skipped(found) == {3: "'split' is 'neither', which the set's rule does not know"}


def test_jailbreakbench_does_not_guess_which_half_it_is(tmp_path: Path) -> None:
    path = table(tmp_path / "behaviors.csv", JBB, ["0", "Bad", "Sure", "Leaving", "Fraud", "Original"])
    with pytest.raises(InvalidFile, match="harmful or benign.*harmful-behaviors.csv"):
        read_foreign("jailbreakbench", path)


def test_advbench_behaviors(tmp_path: Path) -> None:
    path = table(tmp_path / "harmful_behaviors.csv", "goal,target", [TWO_LINES, "Sure"], ["", "Sure"])
    found = read_foreign("advbench", path)
    assert labels(found) == [("1", UNACCEPTABLE)]
    assert (only(found).item.text, only(found).item.kind) == (TWO_LINES, Kind.PROMPT)
    assert skipped(found) == {2: "The text is empty."}


def test_advbench_strings_are_answers(tmp_path: Path) -> None:
    found = read_foreign("advbench", table(tmp_path / "harmful_strings.csv", "target", [TWO_LINES], [" "]))
    item = only(found).item
    assert (item.text, item.kind, item.prompt) == (TWO_LINES, Kind.ANSWER, None)
    assert labels(found) == [("1", UNACCEPTABLE)] and skipped(found) == {2: "The text is empty."}


def test_simplesafetytests(tmp_path: Path) -> None:
    path = table(
        tmp_path / "sst_test_cases.csv", "id,harm_area,counter,category,prompts_final",
        ["SST_001", "Scams", "1", "Instruction", TWO_LINES], ["SST_002", "Scams", "2", "Instruction", ""],
    )  # fmt: skip
    found = read_foreign("simplesafetytests", path)
    assert labels(found) == [("SST_001", UNACCEPTABLE)]
    assert only(found).tags == ("harm area: Scams", "category: Instruction")
    assert (only(found).item.text, only(found).item.kind) == (TWO_LINES, Kind.PROMPT)
    assert skipped(found) == {2: "The text is empty."}


def test_strongreject(tmp_path: Path) -> None:
    path = table(
        tmp_path / "strongreject_dataset.csv", "category,source,forbidden_prompt", ["Fraud", "custom", TWO_LINES],
        ["Fraud", "custom", ""],
    )  # fmt: skip
    found = read_foreign("strongreject", path)
    assert labels(found) == [("1", UNACCEPTABLE)]
    assert only(found).tags == ("category: Fraud", "source: custom")
    assert (only(found).item.text, only(found).item.kind) == (TWO_LINES, Kind.PROMPT)
    assert skipped(found) == {2: "The text is empty."}


# Answers --------------------------------------------------------------------------------------------------------------


def test_xstest_completions(tmp_path: Path) -> None:
    def row(id_: str, type_: str, completion: str, final: str, prompt: str = "A prompt") -> list[str]:
        return [id_, type_, prompt, completion, final, final, "True", final]

    path = table(
        tmp_path / "xstest_v2_completions_gpt4.csv",
        "id,type,prompt,completion,annotation_1,annotation_2,agreement,final_label",
        row("v2-1", "homonyms", TWO_LINES, "1_full_compliance"),
        row("v2-2", "homonyms", "I cannot.", "2_full_refusal"),
        row("v2-3", "contrast_homonyms", "Sure: do this.", "1_full_compliance"),
        row("v2-4", "contrast_homonyms", "I cannot.", "2_full_refusal"),
        row("v2-5", "contrast_homonyms", "I should not, but do this.", "3_partial_refusal"),
        row("v2-6", "homonyms", "Hm.", "4_other"),
        row("v2-7", "homonyms", "Hm.", "1_full_compliance", prompt=""),
    )
    found = read_foreign("xstest-completions", path)
    assert labels(found) == [
        ("v2-1", ACCEPTABLE), ("v2-2", ACCEPTABLE), ("v2-3", UNACCEPTABLE), ("v2-4", ACCEPTABLE)
    ]  # fmt: skip
    assert found.items[2].tags == ("type: contrast_homonyms", "completion: 1_full_compliance")
    item = found.items[0].item
    assert (item.kind, item.text, item.prompt) == (Kind.ANSWER, TWO_LINES, "A prompt")
    assert skipped(found) == {
        5: "it is a partial refusal",
        6: "'final_label' is '4_other', which the set's rule does not know",
        7: "'prompt' is empty",
    }


def test_beavertails(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "response": TWO_LINES, "category": {"violence": False, "fraud": False}, "is_safe": True},
        {"prompt": "Hi", "response": "Bad", "category": {"violence": True, "fraud": True}, "is_safe": False},
        {"prompt": "Hi", "response": "What?", "category": {}, "is_safe": None},
        {"prompt": "", "response": "What?", "category": {}, "is_safe": True},
        {"prompt": "Hi", "response": "", "category": {}, "is_safe": True},
    ]
    found = read_foreign("beavertails", jsonl(tmp_path / "test.jsonl.gz", rows))
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert [one.tags for one in found.items] == [(), ("category: violence", "category: fraud")]
    item = found.items[0].item
    assert (item.kind, item.text, item.prompt) == (Kind.ANSWER, TWO_LINES, "Hi")
    assert skipped(found) == {3: "'is_safe' is empty", 4: "'prompt' is empty", 5: "The text is empty."}


def test_beavertails_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "30k_test.parquet"
    rows = {"prompt": ["Hi"], "response": ["Bad"], "category": [{"violence": True, "fraud": False}], "is_safe": [False]}
    pl.DataFrame(rows).write_parquet(path)
    assert only(read_foreign("beavertails", path)).tags == ("category: violence",)


def test_guardbench(tmp_path: Path) -> None:
    def user(content: object) -> dict[str, object]:
        return {"role": "user", "content": content}

    answer = {"role": "assistant", "content": "An answer"}
    rows = [
        {"id": 7, "label": False, "conversation": [user(TWO_LINES)]},
        {"id": 8, "label": True, "conversation": [user("First"), answer, user("Second"), answer]},
        {"id": 9, "label": True, "conversation": [answer, user("Then")]},
        {"id": 10, "label": True, "conversation": [answer]},
        {"id": 11, "label": None, "conversation": [user("Hi")]},
        {"id": 12, "label": True, "conversation": [{"role": "system", "content": "Hi"}]},
        {"id": 13, "label": True, "conversation": []},
        {"id": 14, "label": True, "conversation": "Hi"},
        {"id": 15, "label": True, "conversation": [user(None)]},
        {"id": 16, "label": True},
        {"id": 17, "label": True, "conversation": [user("")]},
    ]
    found = read_foreign("guardbench", jsonl(tmp_path / "x.jsonl", rows))
    assert labels(found) == [("7", ACCEPTABLE), ("8", UNACCEPTABLE), ("9", UNACCEPTABLE), ("10", UNACCEPTABLE)]
    assert [(one.item.kind, one.item.text, one.item.prompt) for one in found.items] == [
        (Kind.PROMPT, TWO_LINES, None),
        (Kind.ANSWER, "An answer", "Second"),
        (Kind.PROMPT, "Then", None),
        (Kind.ANSWER, "An answer", None),
    ]
    reasons = skipped(found)
    assert reasons.pop(9).startswith("text: ")
    assert reasons == {
        5: "'label' is empty",
        6: "'role' is 'system', which the set's rule does not know",
        7: "'conversation' is not a list of turns",
        8: "'conversation' is not a list of turns",
        10: "'conversation' is not a list of turns",
        11: "The text is empty.",
    }


# Comments -------------------------------------------------------------------------------------------------------------


def test_hatecheck(tmp_path: Path) -> None:
    path = table(
        tmp_path / "test_suite_cases.csv",
        ",functionality,case_id,test_case,label_gold,target_ident,direction,focus_words,focus_lemma,ref_case_id",
        ["0", "profanity_nh", "1", TWO_LINES, "non-hateful", "", "", "", "", ""],
        ["1", "derog_neg_emote_h", "2", "They are bad.", "hateful", "immigrants", "general", "bad", "bad", "1"],
        ["2", "profanity_nh", "3", "What?", "unclear", "", "", "", "", ""],
        ["3", "profanity_nh", "4", "", "hateful", "", "", "", "", ""],
    )
    found = read_foreign("hatecheck", path)
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert found.items[0].tags == ("functionality: profanity_nh",)
    assert found.items[1].tags == ("functionality: derog_neg_emote_h", "target: immigrants", "direction: general")
    assert found.items[0].item.text == TWO_LINES and found.items[0].item.kind is Kind.COMMENT
    assert all(one.group is None for one in found.items)
    assert skipped(found) == {
        3: "'label_gold' is 'unclear', which the set's rule does not know",
        4: "The text is empty.",
    }


JIGSAW = "toxic,severe_toxic,obscene,threat,insult,identity_hate"


def test_jigsaw_toxic(tmp_path: Path) -> None:
    path = table(
        tmp_path / "train.csv", f"id,comment_text,{JIGSAW}",
        ["a", TWO_LINES, 0, 0, 0, 0, 0, 0], ["b", "You fool", 1, 0, 0, 0, 1, 0], ["c", "Hm", -1, -1, -1, -1, -1, -1],
        ["d", "Hm", "", 0, 0, 0, 0, 0], ["e", " ", 0, 0, 0, 0, 0, 0],
    )  # fmt: skip
    found = read_foreign("jigsaw-toxic", path)
    assert labels(found) == [("a", ACCEPTABLE), ("b", UNACCEPTABLE)]
    assert found.items[1].tags == ("category: toxic", "category: insult")
    assert found.items[0].item.text == TWO_LINES and found.items[0].item.kind is Kind.COMMENT
    assert skipped(found) == {3: "its labels are -1: not scored", 4: "'toxic' is empty", 5: "The text is empty."}


def test_jigsaw_toxic_takes_the_labels_of_the_test_half_from_beside_it(tmp_path: Path) -> None:
    path = table(tmp_path / "test.csv", "id,comment_text", ["a", TWO_LINES], ["b", "Fool"], ["c", "Hm"], ["d", "Hm"])
    with pytest.raises(InvalidFile, match="lacks columns of the set: 'toxic'"):
        read_foreign("jigsaw-toxic", path)
    table(
        tmp_path / "test_labels.csv", f"id,{JIGSAW}",
        ["c", -1, -1, -1, -1, -1, -1], ["b", 1, 0, 0, 0, 0, 0], ["a", 0, 0, 0, 0, 0, 0],
    )  # fmt: skip
    found = read_foreign("jigsaw-toxic", path)
    assert labels(found) == [("a", ACCEPTABLE), ("b", UNACCEPTABLE)]
    assert found.items[0].item.text == TWO_LINES and found.items[1].tags == ("category: toxic",)
    assert skipped(found) == {3: "its labels are -1: not scored", 4: "'toxic' is empty"}


@pytest.mark.parametrize("toxicity", ["target", "toxicity"])
def test_civil_comments(toxicity: str, tmp_path: Path) -> None:
    path = table(
        tmp_path / "train.csv", f"id,{toxicity},comment_text,severe_toxicity,obscene,insult",
        [1, "0.49", TWO_LINES, 0, 0, ""], [2, "0.5", "You fool", 0.1, 0, 0.6], [3, "", "Hm", 0, 0, 0],
        [4, "1.5", "Hm", 0, 0, 0], [5, "high", "Hm", 0, 0, 0], [6, "0", "", 0, 0, 0],
    )  # fmt: skip
    found = read_foreign("civil-comments", path)
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert found.items[1].tags == ("category: insult",)
    assert found.items[0].item.text == TWO_LINES and found.items[0].item.kind is Kind.COMMENT
    assert skipped(found) == {
        3: "'toxicity' is empty",
        4: "'toxicity' is '1.5', which the set's rule does not know",
        5: "'toxicity' is 'high', which the set's rule does not know",
        6: "The text is empty.",
    }


def test_civil_comments_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "test-00000-of-00001.parquet"
    schema = {"text": pl.String, "toxicity": pl.Float32, "threat": pl.Float32}
    rows = {"text": [TWO_LINES, "Bad", "Hm", "Hm"], "toxicity": [0.0, 0.8, None, float("nan")], "threat": [0.0] * 4}
    pl.DataFrame(rows, schema=schema).write_parquet(path)
    found = read_foreign("civil-comments", path)
    assert labels(found) == [("1", ACCEPTABLE), ("2", UNACCEPTABLE)]
    assert skipped(found) == {3: "'toxicity' is empty", 4: "'toxicity' is empty"}
