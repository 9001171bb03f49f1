"""The card of our own sets: statistics written into `eval/sets/README.md`, and the rules that the sets must keep."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sklearn.metrics import cohen_kappa_score

from .hygiene import near_duplicates, shared_with
from .sets import FOLDER, NAMES, THREADS, Line, ThreadLine, lines, read_lines

CARD = FOLDER / "README.md"
_AUTHORED = FOLDER.parent.parent / "training" / "authored"
_MARKED = re.compile(r"(<!-- statistics: .*? -->\n).*?(<!-- end of statistics -->)", re.DOTALL)


def statistics() -> str:
    """Tables of what is in the sets, and of how far the two passes of labelling agree."""
    sets = {name: list(lines(name)) for name in NAMES}
    parts = ["| set | items | acceptable | illegal | hateful | unqualified-advice | prompts | answers | comments |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in sets.items():
        labels, kinds = Counter(one.label for one in found), Counter(one.kind.value for one in found)
        cells = [len(found), *(labels[label] for label in ("acceptable", "illegal", "hateful", "unqualified-advice"))]
        cells += [kinds[kind] for kind in ("prompt", "answer", "comment")]
        parts.append(f"| {name} | {' | '.join(map(str, cells))} |")
    parts += ["", "| set | labelled twice | the passes disagreed | agreement (Cohen's kappa) |", "|---|---|---|---|"]
    for name, found in sets.items():
        apart = sum(one.first != one.second for one in found)
        first, second = [one.first for one in found], [one.second for one in found]
        one_label = len({*first, *second}) == 1
        shown = "undefined: one label only" if one_label else f"{cohen_kappa_score(first, second):.3f}"
        parts.append(f"| {name} | {len(found)} | {apart} ({100 * apart / len(found):.1f} %) | {shown} |")
    everything = [one for found in sets.values() for one in found]
    parts += ["", f"Harm areas: {_counted(one.area for one in everything if one.area != 'none')}."]
    parts += ["", f"Tags: {_counted(tag for one in everything for tag in one.tags)}."]
    words = sorted(len(one.text.split()) for one in everything)
    parts += ["", f"Words per text: median {words[len(words) // 2]}, the longest {words[-1]}."]
    return "\n".join([*parts, "", *_of_threads()]) + "\n"


def _of_threads() -> Iterator[str]:
    """The table of `threads`: families by what a thread does to them and by what they are where they are harmful."""
    found = list(read_lines(THREADS, ThreadLine))
    harmful = [one for one in found if one.label != "acceptable"]
    labels = sorted({one.label for one in harmful})
    yield f"| threads | families | {' | '.join(labels)} |"
    yield "|---|---|" + "---|" * len(labels)
    for direction, name in (("worse", "a thread makes it worse"), ("harmless", "a thread makes it harmless")):
        counted = Counter(one.label for one in harmful if one.direction == direction)
        yield f"| {name} | {counted.total()} | {' | '.join(str(counted[label]) for label in labels)} |"
    words = sorted(len(one.text.split()) for one in harmful)
    yield ""
    yield f"Threads: {len(found)} items; tags: {_counted(tag for one in found for tag in one.tags)}."
    yield f"Words per comment: median {words[len(words) // 2]}, the longest {words[-1]}."


def _counted(names: Iterator[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def faults(training: Path | None = None) -> list[str]:
    """What breaks the rules: words shared with training texts, near-duplicates, ids that stand twice."""
    threads = list(read_lines(THREADS, ThreadLine))
    everything: list[Line | ThreadLine] = [*(one for name in NAMES for one in lines(name)), *threads]
    found = [f"{id_}: the id stands {n} times" for id_, n in Counter(one.id for one in everything).items() if n > 1]
    # an answer's prompt may stand above several answers, so each text is looked at by itself
    texts = {f"{one.id}.{field}": text for one in everything for field, text in _fields(one)}
    found += [
        f"{id_}: shares {run!r} with a training text"
        for id_, run in shared_with(texts, training_texts(training)).items()
    ]
    of_families = {one.family: one.text for one in threads}  # the two items of a family have the same text
    own = {one.id: one.text for one in everything if isinstance(one, Line)} | of_families
    return found + [f"{a} and {b}: nearly the same ({cosine})" for a, b, cosine in near_duplicates(own)]


def _fields(one: Line | ThreadLine) -> Iterator[tuple[str, str]]:
    for field in ("text", "prompt", "parent", "title"):
        if text := getattr(one, field, None):
            yield field, text


def training_texts(folder: Path | None = None) -> Iterator[str]:
    """What was trained on: our own texts, and those of the rows (`*.jsonl.gz`) of a folder."""
    for path in sorted(_AUTHORED.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from _texts(json.loads(line))
    for path in sorted(folder.glob("*.jsonl.gz")) if folder else ():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield from _texts(json.loads(line))


def _texts(row: dict[str, object]) -> Iterator[str]:
    for field in ("text", "prompt", "response", "parent", "title"):
        if isinstance(text := row.get(field), str):
            yield text


def filled() -> str:
    """The card with its statistics as they are now."""
    return _MARKED.sub(lambda match: f"{match[1]}{statistics()}{match[2]}", CARD.read_text(encoding="utf-8"))


def write() -> None:
    """Write the statistics into the card."""
    CARD.write_text(filled(), encoding="utf-8")
