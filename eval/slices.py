"""Subgroups of items that a report shows apart, because an average hides who pays for it."""

from __future__ import annotations

import re

from guard.labelled import Labelled

_LENGTHS = ((10, "under 10 words"), (50, "10 to 49 words"), (150, "50 to 149 words"))
_HIDDEN = {"leetspeak", "spacing", "homoglyph"}
# Words for groups of people that hate is aimed at and that models therefore learn to distrust.
_IDENTITIES = re.compile(
    r"\b(?:muslims?|islam(?:ic)?|jew(?:s|ish)?|christians?|catholics?|hindus?|sikhs?|buddhists?|atheists?|black|white|"
    r"asians?|african?s?|arabs?|mexicans?|chinese|indians?|pakistanis?|roma|gypsies|latin[oax]s?|immigrants?|refugees?|"
    r"foreigners?|gay|gays|lesbians?|bisexuals?|trans(?:gender)?|queer|homosexuals?|lgbtq?\+?|wom[ae]n|girls?|female|"
    r"feminists?|disabled|autistic|deaf|blind|wheelchair|dalits?|elderly|boomers?)\b",
    re.IGNORECASE,
)


def slices_of(one: Labelled) -> tuple[str, ...]:
    """The names of the slices that an item belongs to, such as `kind: comment` or `names a group of people`."""
    words = len(one.item.text.split())
    length = next((name for limit, name in _LENGTHS if words < limit), "150 words and more")
    found = [f"kind: {one.item.kind.value}", f"length: {length}"]
    if _IDENTITIES.search(one.item.text):
        found.append("names a group of people")
    if _HIDDEN & set(one.tags):
        found.append("obfuscated spelling")
    return (*found, *(f"tag: {tag}" for tag in one.tags))
