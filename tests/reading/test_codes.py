"""Texts in codes, texts that only look like codes, and texts that must not be lost in one."""

from __future__ import annotations

import base64
import codecs
from urllib.parse import quote

import pytest

from guard.reading.codes import decoded
from guard.reading.read import Reader
from guard.reading.reading import Reading

SECRET = "i will come and kill all of you tonight"
MORSE = "-.- .. .-.. .-.. / - .... . / - . .- -.-. .... . .-. / - --- -- --- .-. .-. --- .--"


def shifted(text: str, places: int) -> str:
    return "".join(chr((ord(letter) - 97 + places) % 26 + 97) if letter.isalpha() else letter for letter in text)


WRAPPED = "\n".join(base64.b64encode(SECRET.encode()).decode()[at : at + 20] for at in range(0, 60, 20))


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        (base64.b64encode(SECRET.encode()).decode(), SECRET),
        (base64.b64encode(SECRET.encode()).decode().rstrip("="), SECRET),
        (base64.urlsafe_b64encode(SECRET.encode()).decode(), SECRET),
        (WRAPPED, SECRET),
        ("aGVsbG8=", "hello"),
        (base64.b32encode(SECRET.encode()).decode(), SECRET),
        (SECRET.encode().hex(), SECRET),
        (SECRET.encode().hex(" "), SECRET),
        ("".join(f"\\x{byte:02x}" for byte in SECRET.encode()), SECRET),
        ("".join(f"\\u{byte:04x}" for byte in SECRET.encode()), SECRET),
        ("".join(f"={byte:02X}" for byte in SECRET.encode()), SECRET),
        (" ".join(f"{byte:08b}" for byte in SECRET.encode()), SECRET),
        ("".join(f"{byte:08b}" for byte in SECRET.encode()), SECRET),
        (" ".join(str(byte) for byte in SECRET.encode()), SECRET),
        (", ".join(str(byte) for byte in SECRET.encode()), SECRET),
        ("".join(f"&#{byte};" for byte in SECRET.encode()), SECRET),
        ("".join(f"&#x{byte:x};" for byte in SECRET.encode()), SECRET),
        ("&#107;ill", "kill"),
        ("".join(f"%{byte:02x}" for byte in SECRET.encode()), SECRET),
        (quote(SECRET), SECRET),
        (codecs.encode(SECRET, "rot13"), SECRET),
        (shifted(SECRET, 3), SECRET),
        (shifted(SECRET, 19), SECRET),
        (MORSE, "kill the teacher tomorrow"),
        ('a = "gu"; b = "n po"; c = "wd"; d = "er"', 'a = "gu"; b = "n po"; c = "wd"; d = "er" (gun powder)'),
    ],
)
def test_a_code_is_put_in_plain_letters(reader: Reader, disguised: str, plain: str):
    assert decoded(Reading(disguised), reader.count).text == plain


def test_words_spelled_backwards_are_turned(reader: Reader):
    text = " ".join(word[::-1] for word in SECRET.split())
    assert "come and kill all" in decoded(Reading(text), reader.count).text


def test_a_code_is_decoded_within_a_plain_text(reader: Reader):
    text = f"Please read {SECRET.encode().hex()} and answer."
    assert decoded(Reading(text), reader.count).text == f"Please read {SECRET} and answer."


@pytest.mark.parametrize(
    "text",
    [
        "d41d8cd98f00b204e9800998ecf8427e and da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "4" * 304,
        "paid 4433221144332211 to 6664666466646664",
        "id 550e8400-e29b-41d4-a716-446655440000, key AKIAIOSFODNN7EXAMPLE, sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "http://www.example.org/search?q=Press%20Release%3A%20Xbox%20Linux and 100% of 50%",
        "Il a mangé une pomme avec son frère dans la grande maison de campagne.",
        "Der schnelle braune Fuchs springt über den faulen Hund und rennt weg.",
        "Szybki brązowy lis przeskakuje nad leniwym psem i ucieka do lasu.",
        "Saya makan nasi goreng dengan ayam di rumah ibu kemarin malam.",
        "Pneumonoultramicroscopicsilicovolcanoconiosis, internationalization, counterrevolutionary",
        "She won 12 24 36 48 60 72 84 96 times; 65 70 75 80 85 90",
        "“Have you heard?” he inquired. “I’ll be here,” said she, “whenever I am wanted.”",
        '["apple", "banana", "cherry"] and {"a": "b", "c": "d"}',
        "'hot' and 'cold', 'big' and 'small'",
        "- one\n- two\n- three ... --- -- .",
        "Tom &amp; Jerry &lt;b&gt; it&#39;s",
        "C:\\new\\text and \\n\\t",
        "SOUTHHAMPTONSOUTHHAMPTON",
    ],
)
def test_what_is_no_code_stays(reader: Reader, text: str):
    assert decoded(Reading(text), reader.count).text == text


@pytest.mark.parametrize(
    "text",
    [
        '"The bomb" she said and then "kill them all" he said "tonight"',
        'a = "the nice"; kill_them_all = "day"; b = "was fine"',
        '"gu" + "n po" + "wd" + "er" kill them all',
        "kill <b>them</b> %41%42 all",
        "\u202ekill them all\u202c",
        "nggnpx gur kill pnfgyr them jvgu nyy bhe all sbeprf",
        "kill 61 62 63 64 65 66 67 68 69 them all",
    ],
)
def test_plain_words_are_never_lost(reader: Reader, text: str):
    read = reader.read(text).text
    assert all(word in read for word in ("kill", "them", "all") if word in text)
