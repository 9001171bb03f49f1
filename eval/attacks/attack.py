"""What an attack is: a pure, seeded function that changes a text as somebody would who wants it to pass the judge.

The one rule: a human reader still gets its meaning, so that its label stays what it was. `reviewed.jsonl` holds twenty
outputs of each attack that were read for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Change = Callable[[str, Random], str]

SEED = 20231010  # of samples and attacks; any number will do, as long as it stays the same


@dataclass(frozen=True)
class Attack:
    """A change of texts with its name and what it does, in one sentence. Calling it never raises, whatever the text."""

    name: str
    family: str
    description: str
    change: Change

    def __call__(self, text: str, random: Random) -> str:
        """The text as the attacker sends it. A blank text has no meaning to hide, and stays as it is."""
        return self.change(text, random) if text.strip() else text

    def on(self, text: str, key: str, seed: int = SEED) -> str:
        """The text of the item `key` as the attack changes it under `seed`, whatever other items there are."""
        return self(text, Random(f"{seed} {self.name} {key}"))


def compose(*attacks: Attack) -> Attack:
    """The attacks one after the other, the first one first, such as `homoglyphs+padding`.

    >>> shout = Attack("shout", "spelling", "Writes in capitals.", lambda text, random: text.upper())
    >>> frame = Attack("frame", "wrapping", "Sets the text in brackets.", lambda text, random: f"[{text}, please]")
    >>> compose(shout, frame).name, compose(shout, frame)("hi", Random(0)), compose(frame, shout)("hi", Random(0))
    ('shout+frame', '[HI, please]', '[HI, PLEASE]')
    """

    def change(text: str, random: Random) -> str:
        for attack in attacks:
            text = attack(text, random)
        return text

    return Attack(
        "+".join(attack.name for attack in attacks), "composed",
        " Then: ".join(attack.description for attack in attacks), change,
    )  # fmt: skip


def filled(wording: str, text: str) -> str:
    """The wording with the text at its `{}`; braces in the text mean nothing.

    >>> filled("So: {}!", "{} of {n}")
    'So: {} of {n}!'
    """
    before, _, after = wording.partition("{}")
    return f"{before}{text}{after}"
