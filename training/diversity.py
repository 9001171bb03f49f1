"""How varied texts are: distinct n-grams among equally many words, our own items beside two public sets.

    python -m training.diversity

A stamped set repeats its n-grams. Sets differ in length, so each is cut to equally many words, drawn text by text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from training.config import Config
from training.sources import authored_examples, read_rows

BESIDE = ("jigsaw_sample", "benign_instructions")
ORDERS = (1, 2, 3, 4)


def distinct(texts: Sequence[str], words: int, seed: int = 0) -> dict[int, float]:
    """n -> distinct n-grams over all n-grams, within texts, of `words` words drawn from `texts`.

    >>> distinct(["a b a b"], words=4)[2]  # a b, b a, a b
    0.6666666666666666
    """
    grams: dict[int, list[tuple[str, ...]]] = {n: [] for n in ORDERS}
    taken = 0
    for text in random.Random(seed).sample(list(texts), len(texts)):
        found = re.findall(r"\w+", text.lower())[: words - taken]
        taken += len(found)
        for n in ORDERS:
            grams[n] += [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        if taken == words:
            break
    return {n: len(set(found)) / len(found) if found else 0.0 for n, found in grams.items()}


def main() -> None:
    config = Config()
    sets = {"training/authored": [example.item.text for example in authored_examples(config)]}
    for name in BESIDE:
        sets[name] = [row["text"] for row in read_rows(config.data / f"{name}.jsonl.gz")]
    words = min(sum(len(re.findall(r"\w+", text)) for text in texts) for texts in sets.values())
    print(f"distinct n-grams among {words} words\n\n| set | texts | n = 1 | 2 | 3 | 4 |\n|---|---|---|---|---|---|")
    for name, texts in sets.items():
        shares = " | ".join(f"{share:.3f}" for share in distinct(texts, words).values())
        print(f"| {name} | {len(texts)} | {shares} |")


if __name__ == "__main__":
    main()
