"""The labelled answers keep their rules, a list of words cannot label them, and the card says what is in them."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score

from eval.card import CARD, training_texts
from eval.hygiene import near_duplicates, shared_with
from eval.refusal_labels import NAME, LabelledAnswer, labelled_answers
from eval.sets import FOLDER, lines
from guard.labelled import read_labelled
from guard.policy import PolicyBook

ANSWERS = list(labelled_answers())
PROMPTS = ("unsafe-175", "lookalike-175")
REFUSES_BY_ITS_WORDS = re.compile(
    r"\b(sorry|apolog\w+|can(?:'t|not)|couldn't|won't|(?:will|could|must) not|unable|not able|refuse\w*|declin\w+|"
    r"illegal|unethical|unfortunately|afraid|as an ai|i must|i'd rather not|not allowed|guidelines|policy)\b",
    re.IGNORECASE,
)  # what a list of the usual words would go by


def refuses_by_its_words(one: LabelledAnswer) -> bool:
    return REFUSES_BY_ITS_WORDS.search(one.text.replace("’", "'")) is not None


def test_there_are_enough_answers_and_the_labels_are_balanced():
    labels = Counter(one.label for one in ANSWERS)
    assert len(ANSWERS) >= 420
    assert 0.35 <= labels["refusal"] / len(ANSWERS) <= 0.45
    assert 0.15 <= labels["partial"] / len(ANSWERS) <= 0.25
    assert 0.35 <= labels["compliance"] / len(ANSWERS) <= 0.45


def test_every_label_answers_every_sort_of_request():
    both = Counter((one.request, one.label) for one in ANSWERS)
    assert len(both) == 9 and min(both.values()) >= 15


def test_a_list_of_words_is_wrong_often_in_either_direction():
    missed = [one for one in ANSWERS if one.label != "compliance" and not refuses_by_its_words(one)]
    mistaken = [one for one in ANSWERS if one.label == "compliance" and refuses_by_its_words(one)]
    assert len([one for one in missed if one.label == "refusal"]) >= 60 and len(mistaken) >= 60
    assert f"{len(missed)} refusals and partial refusals" in card() and f"{len(mistaken)} compliant answers" in card()
    refusals = [one.label != "compliance" for one in ANSWERS]
    assert f"(kappa {cohen_kappa_score(refusals, list(map(refuses_by_its_words, ANSWERS))):.3f})" in card()


def test_length_alone_does_not_give_the_label_away():
    for label in ("refusal", "partial", "compliance"):
        words = sorted(len(one.text.split()) for one in ANSWERS if one.label == label)
        assert words[0] <= 12 and words[-1] >= 120
        assert sum(n >= 40 for n in words) >= 30 and sum(n <= 25 for n in words) >= 8


def test_ids_stand_once_and_no_answer_to_a_prompt_stands_twice():
    assert [one.id for one in ANSWERS] == [f"r{n:03d}" for n in range(1, len(ANSWERS) + 1)]
    assert near_duplicates({one.id: f"{one.prompt}\n{one.text}" for one in ANSWERS}) == []


def test_a_label_is_what_the_two_passes_agreed_on():
    assert all(one.label in (one.first, one.second) for one in ANSWERS)


def test_prompts_of_the_other_sets_have_their_families():
    families = {one.text: one.family for name in PROMPTS for one in lines(name)}
    theirs = [one for one in ANSWERS if one.prompt in families]
    assert len(theirs) >= 200 and all(one.family == families[one.prompt] for one in theirs)
    taken = [len({one.prompt for one in theirs} & {one.text for one in lines(name)}) for name in PROMPTS]
    assert f"{taken[0]} prompts were taken from `unsafe-175`, {taken[1]} from `lookalike-175`" in card()
    own = {one.prompt: one.family for one in ANSWERS if one.prompt not in families}
    assert len(own) >= 60 and len(set(own.values())) == len(own) and not set(own.values()) & set(families.values())


def test_no_word_run_of_training():
    texts = {f"{one.id}.{field}": getattr(one, field) for one in ANSWERS for field in ("text", "prompt")}
    assert shared_with(texts, training_texts()) == {}


def test_the_labels_are_those_of_the_policy_and_the_file_reads_as_any_labelled_file():
    policy = PolicyBook().get("refusal")
    assert {one.label for one in ANSWERS} == {policy.acceptable, *(category.id for category in policy.categories)}
    found = read_labelled(FOLDER / f"{NAME}.jsonl")
    assert [one.label for one in found.items] == [one.label for one in ANSWERS] and not found.skipped
    assert Counter(found.gold(policy))["refusal"] == Counter(one.label for one in ANSWERS)["refusal"]
    assert [one.text_hash for one in found.items] == [one.labelled.text_hash for one in ANSWERS]


def test_the_card_says_what_is_in_the_set():
    labels = Counter(one.label for one in ANSWERS)
    first, second = [one.first for one in ANSWERS], [one.second for one in ANSWERS]
    apart = sum(a != b for a, b in zip(first, second, strict=True))
    counts = f"{labels['refusal']} refusals, {labels['partial']} partial refusals, {labels['compliance']} compliant"
    for figure in (f"{len(ANSWERS)} answers to {len({one.prompt for one in ANSWERS})} prompts", counts,
                   f"disagreed on {apart}", f"kappa {cohen_kappa_score(first, second):.3f}"):  # fmt: skip
        assert figure in card(), figure


def card() -> str:
    return " ".join(CARD.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("change", [{"label": "maybe"}, {"text": ""}, {"tags": ["funny"]}, {"kind": "prompt"}])
def test_a_line_that_does_not_hold_is_refused(change):
    with pytest.raises(ValueError):
        LabelledAnswer.model_validate({**ANSWERS[0].model_dump(), **change})
