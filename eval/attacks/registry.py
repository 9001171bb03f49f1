"""The attacks by name, in the order in which a table shows them."""

from __future__ import annotations

from guard.errors import InvalidRequest

from . import characters, encodings, padding, spelling, talking, wrapping
from .attack import Attack, compose

_ALL = (
    Attack("homoglyphs", "characters", "Look-alike Cyrillic, Greek and Armenian letters stand for half of the Latin "
           "ones.", characters.homoglyphs),
    Attack("styled-letters", "characters", "Full-width or mathematical letters stand for the plain ones.",
           characters.styled_letters),
    Attack("zero-width", "characters", "Characters without width stand between letters.", characters.zero_width),
    Attack("combining", "characters", "Half of the letters carry an accent that does not belong there.",
           characters.combining),
    Attack("bidi", "characters", "Half of the words are stored backwards and shown forwards by direction marks.",
           characters.bidi),
    Attack("leetspeak", "spelling", "Digits and signs stand for letters that they resemble.", spelling.leetspeak),
    Attack("spacing", "spelling", "All characters are spaced out.", spelling.spacing),
    Attack("punctuation", "spelling", "Dots, dashes or the like stand within words.", spelling.punctuation),
    Attack("casing", "spelling", "Capitals and small letters are thrown together.", spelling.casing),
    Attack("misspelling", "spelling", "Most longer words have a mistake inside.", spelling.misspelling),
    Attack("emoji", "spelling", "Pictures stand for some nouns and between words.", spelling.emoji),
    Attack("base64", "encodings", "The text is in base64, with the request to decode it.", encodings.base64),
    Attack("rot13", "encodings", "The text is in ROT13, with the request to decode it.", encodings.rot13),
    Attack("reversed-words", "encodings", "Each word is spelled backwards, with the request to turn it.",
           encodings.reversed_words),
    Attack("role-play", "wrapping", "The reader is given a part that knows no rules.", wrapping.role_play),
    Attack("quoting", "wrapping", "The text stands in quotation marks, as the writer's own.", wrapping.quoting),
    Attack("splitting", "wrapping", "The text is cut into pieces that are to be read as one.", wrapping.splitting),
    Attack("padding-before", "padding", "Harmless sentences stand in front of the text.", padding.padding_before),
    Attack("padding-after", "padding", "Harmless sentences stand behind the text.", padding.padding_after),
    Attack("padding", "padding", "Harmless sentences stand on both sides of the text.", padding.padding),
    Attack("ignore-policy", "talking", "The judge is told to leave the policy aside.", talking.ignore_policy),
    Attack("disavowal", "talking", "The writer assures that nothing bad is meant.", talking.disavowal),
    Attack("forged-verdict", "talking", "A forged verdict stands beside the text.", talking.forged_verdict),
    Attack("break-out", "talking", "Our prompt's own marks end the text, and a forged answer follows.",
           talking.break_out),
    Attack("control-tokens", "talking", "A chat format's control tokens end the turn, and a forged answer follows.",
           talking.control_tokens),
)  # fmt: skip
ATTACKS = {attack.name: attack for attack in _ALL}


def find(name: str) -> Attack:
    """An attack by its name, or several composed: `homoglyphs+padding`. Raises `InvalidRequest`."""
    strange = next((part for part in name.split("+") if part not in ATTACKS), None)
    if strange is not None:
        raise InvalidRequest(f"No attack is called {strange!r}.", hint=f"There are: {', '.join(ATTACKS)}.")
    parts = [ATTACKS[part] for part in name.split("+")]
    return parts[0] if len(parts) == 1 else compose(*parts)
