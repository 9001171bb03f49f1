"""Characters that are not what they look like, and characters that are."""

from __future__ import annotations

import pytest

from guard.reading.characters import unmasked
from guard.reading.read import Reader
from guard.reading.reading import Reading

TAGGED = "".join(chr(0xE0000 + ord(letter)) for letter in "kill")
ENGLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng") + "\U000e007f"


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("I will k\u200bi\u200bl\u200bl you", "I will kill you"),
        ("I will k\u2060i\u00adl\ufeffl you", "I will kill you"),
        ("I will k\u200di\u200cl\ufe0fl you", "I will kill you"),
        ("I will \u200dkill you", "I will kill you"),
        ("I will k\u2800i\u2800l\u2800l you", "I will k i l l you"),
        ("I will uoy\u202ellik\u202c", "I will uoykill"),
        ("\u202euoy llik lliw I", "I will kill you"),
        ("\u202ekill you", "kill you"),
        (f"a {TAGGED} b", "a kill b"),
        ("I will kіll уоu", "I will kill you"),
        ("I will κill you", "I will kill you"),
        ("i ωαηт тσ кιℓℓ уσυ", "i want to kill you"),
        ("noʎ ןןıʞ oʇ ʇuɐʍ I", "I want to kill you"),
        ("ᶦ ʷᵃˢ ʰᵉʳᵉ", "i was here"),
        ("I will ｋｉｌｌ you", "I will kill you"),
        ("I will 𝐤𝐢𝐥𝐥 you", "I will kill you"),
        ("I will 𝓴𝓲𝓵𝓵 you", "I will kill you"),
        ("I will 𝕜𝕚𝕝𝕝 you", "I will kill you"),
        ("I will ⓚⓘⓛⓛ you", "I will kill you"),
        ("I will 🅺🅸🅻🅻 you", "I will KILL you"),
        ("I will ᴋɪʟʟ you", "I will kill you"),
        ("I will k̶i̶l̶l̶ you", "I will kill you"),
        ("ķĩłļ ÿöú äļļ now", "kill you all now"),
        ("\u202e lliw kill uoy", "you kill will "),
        ("I will k̷̛͎i̸̪͑l̶̰͝l̵̗̇ you", "I will kill you"),
        ("I will ʞıll you now", "I will ʞıll you now"),  # one letter may be anything
        ("noʎ llıʞ llıʍ I", "I will kill you"),
        ("ǝɹǝɥʇ noʎ llᴉʞ", "kill you there"),
        ("wh0\ufe0f\u20e3re", "wh0re"),
        ("I\x92m here", "I’m here"),
    ],
)
def test_a_disguise_is_taken_off(reader: Reader, disguised: str, plain: str):
    assert unmasked(Reading(disguised), reader.count).text == plain


@pytest.mark.parametrize(
    "text",
    [
        "Nous étions à l’hôtel, où le garçon a reçu un œuf; ça coûte 5 € !",
        "Übermäßige Größe für Straßenfüße; Äpfel, Öl und Übung.",
        "Zażółć gęślą jaźń, w łódce źrebię.",
        "Tôi yêu tiếng nước tôi từ khi mới ra đời, người ơi. Những đường phố Hà Nội.",
        "Iğdır'da ılık bir ışık; İstanbul'un çığlığı, şöyle böyle.",
        "Я живу в Москве, и мой кот любит рыбу. Цена 5 USD.",
        "Мой новый iPhone и ноутбук Dell, а ещё MacBook.",
        "Ο καφές είναι ζεστός και το νερό κρύο. Το PDF είναι εδώ.",
        "مرحبا بالعالم، كيف حالك اليوم؟",
        "می‌خواهم کتاب‌ها را بخوانم و نمی‌دانم کجا هستند.",
        "क्‍या आप ठीक हैं? श्री‌मान, नमस्ते।",
        "שלום, מה שלומך היום?",
        "今天天气很好，我们去公园吧。ＡＢＣ"[:-3],
        "東京は２０２６年に暑い。",
        "안녕하세요, 오늘 날씨가 좋네요.",
        "สวัสดีครับ วันนี้อากาศดี",
        "Family 👨‍👩‍👧‍👦, ❤️‍🔥, 👍🏽, 🏳️‍🌈, 1️⃣ 2️⃣ #️⃣ ©️ ✡️then",
        f"Flags: 🇩🇪 🇫🇷 {ENGLAND}!",
        "Ọjọ́ ìbí ẹ̀gbọ́n mi ni ọ̀la, ẹ káàárọ̀, ó ṣe pàtàkì, ọmọ ẹ̀kọ́.",
        "Wǒ xǐhuān chī píngguǒ, nǚ'ér lǜsè, Běijīng.",
        "The word is said /ˈveɪdə(z)/ or [ˈtʁaʊŋkaˌjœːkʏtl̥], /ˈbeɪzoʊs/, /ˈʃɑːrdəneɪ/.",
        "Puruṣārthas, saṃsāra, Ahiṃsā, dhyāna, yajña, Kṛṣṇa.",
        "For α and β in ℝ^n, 2ⁿ, x² and H₂O at 300 K, 5 μmol, Δt, σx, ωt; the α7 receptor.",
        "① first ② second ③ third",
        "“Quotes” — dashes – and… naïve café, piñata; 5 €, 3 £.",
        "⠠⠓⠑⠇⠇⠕⠀⠺⠕⠗⠇⠙",
        "plain ASCII\twith tabs\r\nand lines",
    ],
)
def test_a_text_without_a_disguise_stays(reader: Reader, text: str):
    assert unmasked(Reading(text), reader.count).text == text


def test_a_character_knows_its_place_when_invisible_ones_are_gone(reader: Reader):
    reading = unmasked(Reading("a k\u200bi\u200bll"), reader.count)
    assert reading.span(2, 6) == (2, 8)
