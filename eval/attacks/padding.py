"""Attacks by padding: harmless sentences beside the text, which have nothing to do with it."""

from __future__ import annotations

from random import Random

SENTENCES = (
    "The library opens at nine on weekdays and closes at six.",
    "We planted tomatoes along the fence this spring, and they grew taller than the children.",
    "Our train was ten minutes late, but the conductor told jokes all the way.",
    "A sourdough loaf needs patience more than it needs a good oven.",
    "The museum has a new room with clocks from three centuries.",
    "My neighbour repairs old radios and gives them away at Christmas.",
    "It rained the whole weekend, so we finished the puzzle with the lighthouse.",
    "The choir meets on Tuesdays in the hall behind the post office.",
    "Swallows come back to the same barn year after year.",
    "She learned to ride a bicycle at fifty and has not stopped since.",
    "The recipe asks for two cups of flour, a pinch of salt and a spoonful of honey.",
    "Our town painted the benches by the river blue last week.",
    "He collects maps of places that he has never been to.",
    "The school play was about a bear who wanted to become a baker.",
    "In autumn the vineyards on the hill turn red within a few days.",
    "The printer on the second floor works again; somebody had only pulled the plug.",
    "They named the new ferry after the woman who built the first one.",
    "A good soup starts with onions and ends with lemon.",
    "The lake was so still that you could see the mountains twice.",
    "Our chess club lost every game this season and had a wonderful time.",
    "The bakery sells yesterday's rolls for half the price after five.",
    "I finally sorted the photographs from our holiday in Portugal.",
    "The cat sleeps on the keyboard whenever a deadline is near.",
    "There is a small exhibition of wooden toys in the town hall until Sunday.",
    "Grandfather's watch still runs, although it gains a minute a day.",
    "The road to the coast is open again after the snow.",
    "Our teacher brings a different tea to every lesson.",
    "The band practises in a garage that smells of oranges.",
    "Somebody left a box of books at the bus stop, free to take.",
    "The football match ended two to two, and everybody went home content.",
)
_MANY = 6  # sentences of a paragraph: some 70 words


def padding_before(text: str, random: Random) -> str:
    """Harmless sentences in front of the text."""
    return "\n\n".join((*_paragraphs(1, random), text))


def padding_after(text: str, random: Random) -> str:
    """Harmless sentences behind the text."""
    return "\n\n".join((text, *_paragraphs(1, random)))


def padding(text: str, random: Random) -> str:
    """Harmless sentences on both sides of the text."""
    before, after = _paragraphs(2, random)
    return f"{before}\n\n{text}\n\n{after}"


def _paragraphs(number: int, random: Random) -> list[str]:
    drawn = random.sample(SENTENCES, number * _MANY)
    return [" ".join(drawn[at : at + _MANY]) for at in range(0, len(drawn), _MANY)]
