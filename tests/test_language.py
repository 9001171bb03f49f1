"""Which texts are marked as not in the model's language. A mark only: every text must get an answer."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard import language
from guard.language import supported

EN = ("en",)
ENGLISH = "I would like to know how to kill a process that hangs on my Linux machine at home"
SETS = Path(__file__).parents[1] / "eval" / "sets"
GERMAN = "Ich möchte gerne wissen, wie ich auf meinem Rechner zu Hause einen Prozess beenden kann"


def own_lines(name):
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        (ENGLISH, True),
        (GERMAN, False),
        ("Je voudrais savoir comment je peux arrêter un processus sur mon ordinateur à la maison", False),
        ("как убить процесс", False),
        ("漢字仮名交じり文", False),
        ("كيف حالك", False),
        ("fuck", True),
        ("lol ok", True),
        ("Guten Morgen", True),  # too short to tell
        ("ok ж", True),
        ("", True),
        ("12345 :-) \0 \n", True),
        ("https://example.org/?q=1", True),
        ("🏳️‍🌈🏳️‍🌈", True),
    ],
)
def test_a_model_for_english(text: str, yes: bool):
    assert supported(text, EN) is yes


def test_a_model_for_other_languages():
    assert supported(GERMAN, ("en", "de"))
    assert supported(GERMAN, None)
    assert supported("как убить процесс", ("en", "ru"))
    assert not supported(ENGLISH, ("ru", "uk"))


def test_many_english_words_make_a_text_english_where_the_identifier_says_so_too(monkeypatch):
    """What the shortcut saves: texts that it settles are those that the identifier would settle so."""
    texts = [line["text"] for name in ("standard", "adversarial", "unsafe-175") for line in own_lines(name)]
    texts += [GERMAN, "Wat is er aan de hand, of was het gisteren al zo dat je me niet kon bellen over the game"]
    found = [supported(text, EN) for text in texts]
    settled = [language._mostly(language._WORD.findall(text), language._OWN_WORDS["en"]) for text in texts]
    assert sum(settled) > 0.6 * len(texts)
    monkeypatch.setattr(language, "_MANY", 2.0)
    assert [supported(text, EN) for text in texts] == found


def test_a_long_text_is_judged_by_its_beginning_at_once():
    supported(ENGLISH, EN)
    started = time.thread_time()
    for text in (ENGLISH * 15_000, "ж" * 10**6, "\u0301" * 10**6, "a" * 10**6):
        supported(text, EN)
    assert time.thread_time() - started < 2


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=300))
def test_any_text_gets_an_answer(text: str):
    assert supported(text, EN) in (True, False)
    assert supported(text, None) is True


def test_many_threads_get_the_same_answers():
    texts = [ENGLISH, GERMAN] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: supported(text, EN), texts)) == [True, False] * 20
