"""Policies: what does not hold is refused, what matters is hashed, and no rule lets a text past the judge."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guard.errors import InvalidPolicy, UnknownPolicy
from guard.item import Kind
from guard.policy import Action, Policy, PolicyBook, Rule, load_policy
from guard.resources import shipped
from tests.builders import category, policy

GOOD = """\
id: house
version: 3
description: for people
acceptable: fine
threshold: 0.4
kinds: [prompt, comment]
categories:
  - id: hate
    description: demeans people
    action: block
  - id: hate/threat
    parent: hate
    name: threat
    description: demeans and threatens
    examples: [one]
    exceptions: [two, three]
    threshold: 0.3
  - id: spam
    description: advertises
    kinds: [comment]
    action: review
allow:
  - {term: good morning, reason: a greeting}
deny:
  - {term: viagra, reason: a drug, category: spam}
  - {pattern: '(?i)free\\s+money', reason: a scam, action: review}
tests:
  - {text: hello, expect: allow}
  - {text: they are vermin, expect: block, category: hate}
"""


def write(folder: Path, text: str, name: str = "house.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def refused(folder: Path, text: str) -> str:
    assert text != GOOD
    with pytest.raises(InvalidPolicy) as error:
        load_policy(write(folder, text))
    return error.value.message.replace(f"{folder}/", "")


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_a_whole_policy(tmp_path: Path):
    made = load_policy(write(tmp_path, GOOD))
    assert (made.id, made.version, made.acceptable, made.threshold) == ("house", 3, "fine", 0.4)
    assert [(c.id, c.name, c.parent, c.threshold, c.action) for c in made.categories] == [
        ("hate", "hate", None, 0.5, Action.BLOCK),
        ("hate/threat", "threat", "hate", 0.3, Action.FLAG),
        ("spam", "spam", None, 0.5, Action.REVIEW),
    ]
    assert made.categories[2].kinds == (Kind.COMMENT,)
    assert [rule.reason for rule in (*made.allow, *made.deny)] == ["a greeting", "a drug", "a scam"]
    assert [case.expect for case in made.tests] == ["allow", "block"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("threshold: 0.4", "treshold: 0.4", "house.yaml:5: treshold: unknown key"),
        ("    parent: hate", "    parents: hate", "house.yaml:12: categories.1.parents: unknown key"),
        ("reason: a drug, category", "reason: a drug, kategory", "house.yaml:25: deny.0.kategory: unknown key"),
        ("expect: block, category", "expect: block, score: 1, category", "house.yaml:29: tests.1.score: unknown key"),
        ("version: 3", "version: 0", "house.yaml:2: version: "),
        ("version: 3", "version: three", "house.yaml:2: version: "),
        ("version: 3\n", "", "house.yaml:1: version: Field required"),
        ("id: house", "id: House", "house.yaml:1: id: "),
        ("id: house", "id: ../house", "house.yaml:1: id: "),
        ("id: house", 'id: "house\\n"', "house.yaml:1: id: "),
        ("threshold: 0.4", "threshold: 0", "house.yaml:5: threshold: "),
        ("threshold: 0.4", "threshold: 1", "house.yaml:5: threshold: "),
        ("threshold: 0.4", "threshold: .nan", "house.yaml:5: threshold: "),
        ("threshold: 0.4", "threshold: -.inf", "house.yaml:5: threshold: "),
        ("threshold: 0.4", "threshold: high", "house.yaml:5: threshold: "),
        ("threshold: 0.3", "threshold: 1.5", "house.yaml:17: categories.1.threshold: "),
        ("action: block", "action: ban", "house.yaml:10: categories.0.action: "),
        ("kinds: [prompt, comment]", "kinds: [prompt, essay]", "house.yaml:6: kinds.1: "),
        ("kinds: [prompt, comment]", "kinds: []", "house.yaml:6: kinds: "),
        ("kinds: [comment]", "kinds: []", "house.yaml:20: categories.2.kinds: "),
        ("kinds: [comment]", "kinds: [answer]", "'spam' applies to no kind of item that the policy is for"),
        ("- id: hate\n", '- id: "hate "\n', "house.yaml:8: categories.0.id: "),
        ("- id: hate\n", "- id: -hate\n", "house.yaml:8: categories.0.id: "),
        ("- id: hate\n", f"- id: {'h' * 65}\n", "house.yaml:8: categories.0.id: "),
        ("description: demeans people", "description: ''", "house.yaml:9: categories.0.description: "),
        ("description: demeans people", r'description: "\uD800"', "house.yaml:9: categories.0.description: "),
        ("    description: demeans people\n", "", "house.yaml:8: categories.0.description: Field required"),
        ("examples: [one]", "examples: ['']", "house.yaml:15: categories.1.examples.0: "),
        ("examples: [one]", r'examples: ["\uD800"]', "house.yaml:15: categories.1.examples.0: "),
        ("name: threat", "name: ''", "house.yaml:13: categories.1.name: "),
        ("acceptable: fine", "acceptable: ''", "house.yaml:4: acceptable: "),
        ("- id: spam", "- id: hate", "category id 'hate' stands twice"),
        ("name: threat", "name: spam", "label 'spam' stands twice"),
        ("name: threat", "name: fine", "label 'fine' stands twice"),
        ("acceptable: fine", "acceptable: hate", "label 'hate' stands twice"),
        ("parent: hate", "parent: hat", "'hate/threat': parent 'hat' is unknown or below itself"),
        ("parent: hate", "parent: hate/threat", "'hate/threat': parent 'hate/threat' is unknown or below itself"),
        ("- id: hate\n", "- id: hate\n    parent: hate/threat\n", "is unknown or below itself"),
        ("reason: a drug, category: spam", "reason: a drug, category: spa", "'spa' is not in this policy"),
        ("expect: block, category: hate", "expect: block, category: hat", "'hat' is not in this policy"),
        ("expect: block", "expect: ban", "house.yaml:29: tests.1.expect: "),
        ("pattern: '(?i)free\\s+money'", "pattern: '(free'", "house.yaml:26: deny.1.pattern: "),
        ("pattern: '(?i)free\\s+money'", "pattern: '(?=free)'", "not an RE2 expression"),
        ("pattern: '(?i)free\\s+money'", "pattern: '(a)\\1'", "not an RE2 expression"),
        ("pattern: '(?i)free\\s+money'", "pattern: 'a{1001}'", "not an RE2 expression"),
        ("pattern: '(?i)free\\s+money'", "pattern: ''", "house.yaml:26: deny.1.pattern: "),
        ("term: viagra", "term: ''", "house.yaml:25: deny.0.term: "),
        ("term: viagra", "term: ' \u3000'", "the term is blank"),
        ("term: viagra", "term: viagra, pattern: viagra", "give either `term` or `pattern`"),
        ("term: viagra, ", "", "give either `term` or `pattern`"),
        ("reason: a drug", "reason: ''", "house.yaml:25: deny.0.reason: "),
        ("reason: a scam, action: review", "reason: a scam, action: allow", "deny rule cannot have the action `allow`"),
        ("reason: a greeting", "reason: a greeting, action: block", "no other action than `allow`"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_refused_by_file_line_and_key(tmp_path: Path, old: str, new: str, says: str):
    assert old in GOOD
    message = refused(tmp_path, GOOD.replace(old, new, 1))
    assert message.startswith("house.yaml:") and says in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 3", "version: 3\nversion: 4", "house.yaml:3: version: the key stands twice"),
        ("action: block", "action: block\n    action: flag", "house.yaml:11: action: the key stands twice"),
        ("tests:", "categories: []\ntests:", "categories: the key stands twice"),
        ("id: house", "id: [house", "not valid YAML"),
        ("kinds: [prompt, comment]", "kinds: [prompt, comment", "not valid YAML"),
    ],
)
def test_broken_yaml_and_repeated_keys_are_refused(tmp_path: Path, old: str, new: str, says: str):
    assert says in refused(tmp_path, GOOD.replace(old, new, 1))


def test_cycles_are_refused_however_long():
    for length in (1, 2, 3, 7):
        ring = [category(f"c{i}", parent=f"c{(i + 1) % length}") for i in range(length)]
        for also in ([], [category("tail", parent="c0")]):
            with pytest.raises(ValidationError, match="below itself"):
                policy(*also, *ring)


def test_a_policy_without_categories_is_refused():
    with pytest.raises(ValidationError, match="categories"):
        Policy.model_validate({"id": "p", "version": 1, "categories": []})


def test_a_policy_is_frozen():
    made = policy()
    for change in (lambda: setattr(made, "threshold", 0.9), lambda: setattr(made.categories[0], "action", "allow")):
        with pytest.raises(ValidationError):
            change()


# ---------------------------------------------------------------------------------------------------------------------
# Hash


def test_the_hash_ignores_how_a_file_is_written(tmp_path: Path):
    original = load_policy(write(tmp_path, GOOD)).hash
    head, _, tail = GOOD.partition("version: 3\n")
    for text in (
        f"# said\n{GOOD}\n",
        f"{head}{tail}version: 3\n",
        GOOD.replace("0.4", "0.40"),
        GOOD.replace("[one]", "['one']"),
    ):
        assert load_policy(write(tmp_path, text)).hash == original
    assert len(original) == 64


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("description: for people", "description: for other people"),
        ("  - {text: hello, expect: allow}\n", ""),
        ("text: hello", "text: goodbye"),
    ],
)
def test_the_hash_ignores_what_cannot_change_a_verdict(tmp_path: Path, old: str, new: str):
    assert load_policy(write(tmp_path, GOOD.replace(old, new))).hash == load_policy(write(tmp_path, GOOD)).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("id: house", "id: home"),
        ("version: 3", "version: 4"),
        ("acceptable: fine", "acceptable: good"),
        ("threshold: 0.4", "threshold: 0.41"),
        ("kinds: [prompt, comment]", "kinds: [comment]"),
        ("description: demeans people", "description: demeans persons"),
        ("action: block", "action: review"),
        ("name: threat", "name: threats"),
        ("    parent: hate\n", ""),
        ("examples: [one]", "examples: [two]"),
        ("exceptions: [two, three]", "exceptions: [three, two]"),
        ("threshold: 0.3", "threshold: 0.2"),
        ("    kinds: [comment]\n", ""),
        ("term: good morning", "term: good evening"),
        ("term: viagra", "pattern: viagra"),
        ("reason: a drug", "reason: drugs"),
        ("category: spam}\n", "category: hate}\n"),
        ("action: review}", "action: flag}"),
        ("  - {term: viagra, reason: a drug, category: spam}\n", ""),
    ],
)
def test_the_hash_changes_with_all_that_can_change_a_verdict(tmp_path: Path, old: str, new: str):
    assert old in GOOD
    assert load_policy(write(tmp_path, GOOD.replace(old, new, 1))).hash != load_policy(write(tmp_path, GOOD)).hash


def test_a_copy_does_not_keep_the_hash_of_its_original():
    """It did, and with it the prompt that was cached under that hash: the copy was judged by the original."""
    made = policy()
    before = made.hash
    assert made.model_copy(update={"threshold": 0.9}).hash != before
    assert made.model_copy(update={"categories": made.categories[:1]}, deep=True).hash != before
    assert made.model_copy().hash == made.hash == before
    rule = Rule(term="a", reason="r")
    assert rule.found_in("a")
    assert rule.model_copy(update={"term": "b"}).found_in("b")


# ---------------------------------------------------------------------------------------------------------------------
# Narrowing

FAMILY = (
    category("a"),
    category("a/b", parent="a", kinds=["prompt", "answer"]),
    category("a/b/c", parent="a/b"),
    category("d", kinds=["comment"]),
)


def ids(of: Policy) -> dict[str, str | None]:
    return {c.id: c.parent for c in of.categories}


def test_narrowing_to_everything_changes_nothing():
    made = policy()
    assert made.narrowed(None, Kind.PROMPT) is made
    assert made.narrowed(["spam", "hate"], Kind.PROMPT) is made


def test_narrowing_keeps_the_categories_asked_for_in_the_policys_order():
    made = policy(*FAMILY)
    assert ids(made.narrowed(["a/b", "a"], Kind.PROMPT)) == {"a": None, "a/b": "a"}
    assert ids(made.narrowed(iter(["a"]), Kind.PROMPT)) == {"a": None}
    assert made.narrowed(["a"], Kind.PROMPT).hash != made.hash


def test_narrowing_by_kind():
    made = policy(*FAMILY)
    assert ids(made.narrowed(None, Kind.PROMPT)) == {"a": None, "a/b": "a", "a/b/c": "a/b"}
    assert ids(made.narrowed(None, Kind.COMMENT)) == {"a": None, "a/b/c": "a", "d": None}
    assert ids(made.narrowed(["d", "a"], Kind.PROMPT)) == {"a": None}


def test_a_child_without_its_parent_stands_alone_or_belongs_to_the_next_above():
    """A grandchild counted towards nobody when only its parent was left out."""
    made = policy(*FAMILY)
    assert ids(made.narrowed(["a/b"], Kind.PROMPT)) == {"a/b": None}
    assert ids(made.narrowed(["a/b/c"], Kind.PROMPT)) == {"a/b/c": None}
    assert ids(made.narrowed(["a", "a/b/c"], Kind.PROMPT)) == {"a": None, "a/b/c": "a"}


@pytest.mark.parametrize(
    ("asked", "kind", "says", "param"),
    [
        (["hat"], Kind.PROMPT, "no category 'hat'", "categories"),
        (["a", "hat"], Kind.PROMPT, "no category 'hat'", "categories"),
        ("hate", Kind.PROMPT, "no category 'h'", "categories"),
        ([], Kind.PROMPT, "no category left", "kind"),
        (["d"], Kind.PROMPT, "no category left", "categories"),
        ([""], Kind.PROMPT, "no category ''", "categories"),
    ],
)
def test_what_cannot_be_narrowed_is_refused(asked: Any, kind: Kind, says: str, param: str):
    made = policy(*FAMILY[:3], category("d", kinds=["comment"]), kinds=["prompt", "comment"])
    with pytest.raises(UnknownPolicy, match=says) as error:
        made.narrowed(asked, kind)
    assert error.value.param == param and error.value.hint


def test_a_kind_that_the_policy_does_not_know_is_refused():
    made = policy(kinds=["comment"])
    with pytest.raises(UnknownPolicy, match="kind 'answer'") as error:
        made.narrowed(None, Kind.ANSWER)
    assert error.value.param == "kind" and "comment" in error.value.hint
    assert made.default_kind is Kind.COMMENT
    assert policy().default_kind is Kind.PROMPT
    assert policy(kinds=["comment", "answer"]).default_kind is Kind.COMMENT


def test_rules_stay_in_force_whatever_is_asked():
    deny = [{"term": "viagra", "reason": "r", "category": "spam"}, {"term": "slur", "reason": "r", "category": "hate"}]
    made = policy(deny=deny, tests=[{"text": "a", "expect": "flag", "category": "spam"}]).narrowed(
        ["hate"], Kind.PROMPT
    )
    assert [(rule.term, rule.category) for rule in made.deny] == [("viagra", None), ("slur", "hate")]
    assert made.tests == ()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_narrowing_is_a_policy_that_can_be_narrowed_again(data: st.DataObject):
    names = [f"c{i}" for i in range(data.draw(st.integers(1, 6)))]
    made = policy(*(category(n, parent=data.draw(st.sampled_from([None, *names[:i]]))) for i, n in enumerate(names)))
    asked = data.draw(st.sets(st.sampled_from(names), min_size=1))
    narrow = made.narrowed(asked, Kind.PROMPT)
    assert set(ids(narrow)) == asked
    by_id = {c.id: c for c in made.categories}
    for one in narrow.categories:
        assert narrow.ancestors(one) == [a for a in made.ancestors(by_id[one.id]) if a in asked]
    assert narrow.narrowed(asked, Kind.PROMPT) is narrow
    assert Policy.model_validate(narrow.model_dump()) == narrow


# ---------------------------------------------------------------------------------------------------------------------
# Rules


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("heroin", "buy heroin now", True),
        ("heroin", "HEROIN", True),
        ("heroin", "(heroin)", True),
        ("heroin", "heroine", False),
        ("heroin", "heroin_x", False),
        ("heroin", "ｈｅｒｏｉｎ", True),
        ("heroin", "x\nheroin\ny", True),
        ("heroin", "\0heroin\0", True),
        ("heroin", "hero in", False),
        ("ｈｅｒｏｉｎ", "Heroin", True),
        ("kill yourself", "go kill  yourself", True),
        ("kill yourself", "KILL\nYOURSELF", True),
        ("kill yourself", "kill\u3000\tyourself!", True),
        ("  kill   yourself ", "kill yourself", True),
        ("c++", "I like C++!", True),
        ("c++", "c+++", True),
        ("a.b", "axb", False),
        ("a.b", "A.B", True),
        ("(?i)", "x (?i) y", True),
        ("STRASSE", "die straße", True),
        ("naïve", "nai\u0308ve", True),
        ("ﬁx", "FIX", True),
        ("дом", "ДОМ", True),
        ("😀", "a 😀", True),
        ("$", "5 $ each", True),
    ],
)
def test_a_term_is_found_as_a_whole_word(term: str, text: str, found: bool):
    rule = Rule(term=term, reason="r")
    assert rule.found_in(text) is found
    assert not rule.covers(f"{text} and more")


@pytest.mark.parametrize(
    ("rule", "text", "covered"),
    [
        ({"term": "good morning"}, "Good morning", True),
        ({"term": "good morning"}, "  ＧＯＯＤ\n morning\t", True),
        ({"term": "good morning"}, "good morning, I will kill you", False),
        ({"term": "good morning"}, "good morning.", False),
        ({"term": "good morning"}, "good morning\u200b", False),
        ({"term": "good morning"}, "good morning\nI will kill you", False),
        ({"pattern": "ok|okay"}, "okay", True),
        ({"pattern": "ok|okay"}, " ok\n", True),
        ({"pattern": "ok|okay"}, "ok bomb", False),
        ({"pattern": "ok"}, "bomb ok", False),
        ({"pattern": "^ok$"}, "ok\nbomb", False),
        ({"pattern": "(?m)^ok$"}, "ok\nbomb", False),
        ({"pattern": "(?m)^ok$"}, "bomb\nok", False),
        ({"pattern": "ok.*"}, "ok\nbomb", False),
        ({"pattern": "(?s)ok.*"}, "ok\nbomb", True),
        ({"pattern": "ok"}, "OK", False),
        ({"pattern": "a?"}, "b", False),
        ({"pattern": "ok"}, "ok\0", False),
    ],
)
def test_an_allow_rule_covers_all_of_a_text_or_nothing(rule: dict[str, str], text: str, covered: bool):
    assert Rule(**rule, reason="r").covers(text) is covered


@pytest.mark.parametrize("pattern", ["b", "(?i)BOMB", "b.m", "^a", "z$|bomb", "bo(?:m|n)b"])
def test_a_pattern_is_found_anywhere(pattern: str):
    assert Rule(pattern=pattern, reason="r").found_in("a bomb here")


def test_a_pattern_sees_the_text_as_it_is():
    assert not Rule(pattern="bomb", reason="r").found_in("BOMB")
    assert Rule(pattern="ＢＯＭＢ", reason="r").found_in("ＢＯＭＢ")
    assert Rule(pattern=r"\x00", reason="r").found_in("a\0b")


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ({"term": "bad  Word"}, "so a BAD\u00a0\nword, he said", "BAD\u00a0\nword,"),
        ({"term": "c++"}, "ccc (c++) c++", "(c++)"),
        ({"term": "ass"}, "assume an ass", "ass"),
        ({"pattern": "b.m"}, "é😀 bombom", "bom"),
        ({"term": "bomb"}, "bombs", None),
        ({"pattern": "bomb"}, "BOMB", None),
        ({"term": "a \u0308"}, "a\u00a8", None),  # folding makes two words of one
    ],
)
def test_a_rule_says_where_it_matches_first(rule: dict[str, str], text: str, found: str | None):
    span = Rule(**rule, reason="r").span_in(text)
    assert (text[slice(*span)] if span else None) == found


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){20}$", r"(\w+\s?)*$", "(?:a?){500}(?:a){500}$"]
)
def test_no_pattern_hangs_on_a_hostile_text(pattern: str):
    rule = Rule(pattern=pattern, reason="r")
    text = "a" * 10**6 + "!"
    started = time.thread_time()
    rule.found_in(text)
    assert rule.covers(text) is False
    assert time.thread_time() - started < 10


def test_no_term_hangs_on_a_hostile_text():
    rule = Rule(term="a a", reason="r")
    for text in ("a" * 10**6, " " * 10**6, "a\n" * 500_000, "ﷺ" * 300_000, "\u0301" * 10**6):
        started = time.thread_time()
        rule.found_in(text), rule.covers(text)
        assert time.thread_time() - started < 10


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_a_term_is_found_between_other_words_and_covers_itself(term: str, other: str):
    try:
        rule = Rule(term=term, reason="r")
    except ValidationError:
        assert not term.strip()
        return
    assert rule.covers(term)
    assert rule.found_in(term) and rule.found_in(f"{other} {term} {other}") and rule.found_in(f"x\n{term}\ny")


# ---------------------------------------------------------------------------------------------------------------------
# The shipped policies, and the book

SHIPPED = {
    "self-reflection": "illegal hateful unqualified-advice",
    "moderation-13": "harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm "
    "self-harm/intent self-harm/instructions sexual sexual/minors violence violence/graphic",
    "mistral-9": "sexual hate_and_discrimination violence_and_threats dangerous_and_criminal_content selfharm health "
    "financial law pii",
    "mistral-11": "sexual hate_and_discrimination violence_and_threats dangerous criminal selfharm health financial "
    "law pii jailbreaking",
    "forum-comments": "insult hate threat sexual self-harm spam",
    "refusal": "refusal partial",
    "injection": "jailbreaking",
}


def test_the_shipped_policies_and_their_categories():
    assert {one.id: [c.id for c in one.categories] for one in PolicyBook()} == {
        name: ids_.split() for name, ids_ in SHIPPED.items()
    }
    assert {path.stem for path in (shipped("prompts") / "policies").iterdir()} == set(SHIPPED)


def test_openais_children_have_their_parents():
    thirteen = PolicyBook().get("moderation-13")
    assert all(c.parent == (c.id.partition("/")[0] if "/" in c.id else None) for c in thirteen.categories)


def test_the_shipped_labels_are_the_ids():
    for one in PolicyBook():
        assert all(c.name == c.id for c in one.categories), one.id
        assert one.acceptable == ("compliance" if one.id == "refusal" else "acceptable")
        assert not one.allow and bool(one.deny) == (one.id == "injection")


def test_the_book_holds_the_operators_policies_and_the_last_file_wins(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    write(first, GOOD)
    write(first, GOOD.replace("id: house", "id: spam-only"), "b.yml")
    write(second, GOOD.replace("version: 3", "version: 9"), "other.yaml")
    write(second, "not a policy", "notes.txt")
    book = PolicyBook([first, second])
    assert book.get("house").version == 9
    assert book.get("spam-only").version == 3, "a .yml file was passed over in silence"
    assert {one.id for one in book} == {*SHIPPED, "house", "spam-only"}


def test_the_operator_may_replace_a_shipped_policy(tmp_path: Path):
    write(tmp_path, GOOD.replace("id: house", "id: self-reflection"))
    assert [c.id for c in PolicyBook([tmp_path]).get("self-reflection").categories][0] == "hate"


def test_the_book_refuses_a_folder_that_is_none_and_a_file_that_does_not_hold(tmp_path: Path):
    with pytest.raises(InvalidPolicy, match="no such folder"):
        PolicyBook([tmp_path / "nowhere"])
    write(tmp_path, GOOD)
    write(tmp_path, "id: broken\n", "x.yaml")
    with pytest.raises(InvalidPolicy, match=r"x\.yaml:1: "):
        PolicyBook([tmp_path])


@pytest.mark.parametrize("name", ["nowhere", "", "House", "../house", "self-reflection "])
def test_an_unknown_policy_is_named_with_those_that_are_known(name: str):
    with pytest.raises(UnknownPolicy, match="No policy is called") as error:
        PolicyBook().get(name)
    assert "moderation-13" in error.value.hint and error.value.param == "policy"


def test_a_category_without_a_name_is_called_by_its_id():
    assert policy(category("a/b")).categories[0].name == "a/b"


def test_the_categories_of_a_policy_about_documents_are_about_documents(tmp_path: Path):
    text = "id: mine\nversion: 1\nkinds: [document, prompt]\ncategories:\n  - {id: a, description: one}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text + "  - {id: b, description: two, kinds: [prompt]}\n")
    one = load_policy(path)
    assert [c.kinds for c in one.categories] == [(Kind.DOCUMENT, Kind.PROMPT), (Kind.PROMPT,)]
    path.write_text(text + "  - 5\n")
    with pytest.raises(InvalidPolicy, match="categories"):
        load_policy(path)
