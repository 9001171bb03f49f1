"""Words that are spelled so that a filter misses them, and words that only look so."""

from __future__ import annotations

import pytest

from guard.reading.read import Reader
from guard.reading.reading import Reading
from guard.reading.spelling import respelled


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("i will k i l l you", "i will kill you"),
        ("i will k i l l  y o u", "i will kill you"),
        ("f u c k off", "fuck off"),
        ("k\ni\nl\nl", "kill"),
        ("k i l l\ny o u", "kill\nyou"),
        ("k\u00a0i\u00a0l\u00a0l", "kill"),
        ("f-u-c-k", "fuck"),
        ("f.u.c.k you", "fuck you"),
        ("F*U*C*K", "FUCK"),
        ("k…i…l…l", "kill"),
        ("k_i_l_l him", "kill him"),
        ("your st.up.id face", "your stupid face"),
        ("you k.ill him", "you kill him"),
        ("k1ll him", "kill him"),
        ("you b1tch", "you bitch"),
        ("you b!tch", "you bitch"),
        ("sh!t happens", "shit happens"),
        ("you b@stard", "you bastard"),
        ("a$$hole", "asshole"),
        ("fu(k this", "fuck this"),
        ("d1e, s3x", "die, sex"),
        ("y0u 4re 4n 1d10t 4nd 4 f00l", "you are 4n idiot and 4 fool"),
        ("p4r4s1tes", "parasites"),
        ("fuuuuuck you", "fuck you"),
        ("killlll him", "kill him"),
    ],
)
def test_a_word_is_read_as_it_is_meant(reader: Reader, disguised: str, plain: str):
    assert respelled(Reading(disguised), reader.count).text == plain


@pytest.mark.parametrize(
    "text",
    [
        "At 10am, 8 am or 11:30pm on the 4th, 1st, 2nd and 3rd; it's 5ft 10in, 60kg, 100mb, 4k and 3D.",
        "An mp3 player, B2B and P2P, the iPhone15, an x86 and a k8s cluster, i18n.",
        "POP3, arr1[], Set5, NaV1.7, Win3.1, [ch11]",
        "H1N1, COVID19, B12, H2O, Fe3O4, C6H12O6.",
        "It costs $5, €20 or 3£; 50% off! Call 555-1234-567 or +49 170 1234567.",
        "See https://en.wikipedia.org/wiki/Joe_Biden and www.example.org/a-b-c_d/k1ll?x=1&y=l0ve.",
        "Write to j.o.e@example.org, s3nd@m3.org or max.muster-mann@mail.example.com.",
        "@jane_doe7 and @bob like #throwback, C# and C++.",
        "commit 3c5b5e75deadbeef4f, v1.2.3, 192.168.10.1, 2024-01-05, 1/2/3/4, ISBN 978-3-16-148410-0",
        "rows.filter(r => r.id), os.path.join(a, b), res.on('data'), reverse_string(s), x = a+b|c, f(x) = (4th + 2)",
        "the well-known, state-of-the-art e-mail; don't, I'm, O'Neill's, y'all, rock 'n' roll",
        "U.S. and U.K., i.e. this, e.g. that, a.m., p.m., Ph.D., P.S. and the D.C. area, J. R. R. Tolkien",
        "He said... no, wait--it's fine; yes/no, and/or, him/her.",
        "f***ing hell, c**t, s**t, b*tch, f*ck",
        ":-) ;) :D <3 ^_^ xD :'( \\o/ o_O",
        "x + y = z, a b, i = 0; A B C 1 2 3; | X | X | X | X |",
        "color: #FFFFFF; XXXXX, www, III, zzz, mmm, soooo good",
        "1 2 3 4 5 6 7 8 9",
        "我 爱 你 们",
        "(hair) (UTIs) (ongoing) (PCH1)",
        "OUTPUT.\\n\\n\\n\\nNext",
    ],
)
def test_words_that_are_no_disguise_stay(reader: Reader, text: str):
    assert respelled(Reading(text), reader.count).text == text
