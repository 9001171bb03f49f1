"""Is a text in a language that the model was made for? A mark on the verdict, never a reason to skip the judging."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_WORD = re.compile(r"[^\W\d_]{2,}")
_MIN_WORDS = 6  # shorter texts are too little evidence for a statistical identifier, unless the script settles it
_MIN_SHARE = 0.9
# Words that are frequent in English and rare in every other language. Where they are many, the identifier, which takes
# longer than all else that is done to a short comment beside the model, has nothing to add.
_ENGLISH = """
about always and any are because been before being but can could did does doing don even ever from had has have her him
his how into it its just know like make many more much my never not only other our out people really she should some
such than that the their them then there these they thing things think this those though to too very way were what when
where which while who why with would you your
"""
_OWN_WORDS = {"en": frozenset(_ENGLISH.split())}
_MANY = 0.25  # of a text's words


def supported(text: str, languages: tuple[str, ...] | None) -> bool:
    """False if the text is clearly in none of `languages` (ISO 639-1 codes; None: the model names no limits)."""
    if languages is None:
        return True
    words = _WORD.findall(text[:2000])
    letters = "".join(words)
    if not letters:
        return True
    if not letters.isascii() and set(languages) <= _LATIN_SCRIPT:
        latin = sum(c < "\u0250" for c in letters)
        if latin < 0.5 * len(letters):
            return False
    if len(words) < _MIN_WORDS:
        return True
    if any(_mostly(words, own) for code, own in _OWN_WORDS.items() if code in languages):
        return True
    language, share = _identifier().classify(" ".join(words))
    return language in languages or float(share) < _MIN_SHARE


def _mostly(words: list[str], own: frozenset[str]) -> bool:
    return sum(word.lower() in own for word in words) >= _MANY * len(words)


_LATIN_SCRIPT = frozenset({"en", "fr", "de", "es", "it", "pt", "nl"})


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 4 MB: loaded with the first text that needs it

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
