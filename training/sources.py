"""Rows of the public sets and of our own, as examples that say what is known about them, and no more.

A source speaks about its own categories only. A row that is "not sexist" may well be racist, so it is known to be
outside *hate against women* and nothing else: its admissible answers are all labels but that one. The loss is
-log of the probability of the admissible set (see `tune.py`), which makes partial knowledge usable as it is.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from guard.item import Item, Kind
from guard.policy import Policy
from training.config import Config

SOURCE_CAP = 6000  # rows: a larger source is drawn no more often than one of this size
ANY_TOXIC = ("insult", "hate", "threat", "hate_threat", "sexual", "violence", "self_harm")
ANY_HARM = (*ANY_TOXIC, "illicit", "weapons", "fraud", "privacy", "self_harm_instructions", "minors")
RISKS = ("medical", "self_harm", "self_harm_intent", "illicit", "violence")


@dataclass(frozen=True)
class Example:
    """An item, what it is known to be (one of `concepts`; empty: acceptable), and what alone it is known not to be.

    `scope` is not empty where the source says only that these concepts are absent.
    """

    item: Item
    source: str
    split: str  # train, dev, test
    harmful: bool
    concepts: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    pair: str = ""  # of our own items: what it shares with its look-alike
    refusal: str = ""  # of answers: refusal, partial or compliance, where that is known


@dataclass(frozen=True)
class Source:
    """How to read a public set: its kind, the concepts of its positives, and the scope of its negatives."""

    kind: Kind
    concepts: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    by_label: dict[str, tuple[str, ...]] = field(default_factory=dict)  # a native label that says more


_HATE = ("hate", "hate_threat")
_THREATS = ("threat", "hate_threat", "violence")
SOURCES: dict[str, Source] = {
    "davidson_tweets": Source(Kind.COMMENT, ("hate", "insult")),
    "edos_sexism": Source(
        Kind.COMMENT, ("hate",), _HATE, {"1. threats, plans to harm and incitement": (*_HATE, "threat", "violence")}
    ),
    "implicit_hate": Source(Kind.COMMENT, ("hate",)),
    "hatexplain": Source(Kind.COMMENT, ("hate",)),
    "online_misogyny": Source(Kind.COMMENT, ("hate", "insult"), _HATE),
    "stormfront": Source(Kind.COMMENT, ("hate",), _HATE),
    "hatemoji_build": Source(Kind.COMMENT, ("hate",), (), {"threateninglanguage": _THREATS}),
    "wiki_context_toxicity": Source(Kind.COMMENT, ANY_TOXIC),
    "civil_toxic_spans": Source(Kind.COMMENT, ANY_TOXIC),
    "civil_toxic_annot": Source(Kind.COMMENT, ANY_TOXIC),
    "wiki_toxicity_nonfuzzed": Source(Kind.COMMENT, ANY_TOXIC),
    "bias_madlibs": Source(Kind.COMMENT, ("insult", "hate")),
    "convabuse": Source(Kind.COMMENT, ("insult", "sexual", "hate", "threat"), (), {"sex_harassment": ("sexual",)}),
    "gab_hate": Source(Kind.COMMENT, ("hate", "hate_threat"), _HATE),
    "diasafety": Source(
        Kind.ANSWER,
        ANY_HARM,
        (),
        {
            "Offending User": ("insult",),
            "Unauthorized Expertise": ("medical", "legal", "financial"),
            "Risk Ignorance": RISKS,
            "Toxicity Agreement": ANY_TOXIC,
            "Biased Opinion": ("hate",),
        },
    ),
    "gptfuzz_responses": Source(Kind.ANSWER, ANY_HARM),
    "gptfuzz_questions": Source(Kind.PROMPT, ANY_HARM),
    "red_instruct": Source(
        Kind.PROMPT,
        ANY_HARM,
        (),
        {
            "Adult Content": ("sexual",),
            "Child Abuse": ("minors",),
            "Economic Harm": ("fraud", "illicit", "financial"),
            "Fraud/Deception": ("fraud",),
            "Hate/Harass/Violence": ("hate", "insult", "threat", "violence"),
            "Illegal Activity": ("illicit", "fraud", "weapons"),
            "Malware Viruses": ("illicit",),
            "Physical Harm": ("weapons", "violence", "self_harm_instructions"),
            "Privacy Violation Activity": ("privacy",),
            "Tailored Financial Advice": ("financial",),
            "Political Campaigning": (),
        },
    ),
    "cyberseceval_injection": Source(Kind.PROMPT, ("jailbreak",)),
    "cyberseceval_frr": Source(Kind.PROMPT),
    "jailbreak_in_the_wild": Source(Kind.PROMPT, ("jailbreak",)),
    "sms_spam": Source(Kind.COMMENT, ("spam", "fraud")),
    "spamassassin_email": Source(Kind.COMMENT, ("spam", "fraud")),
    "medquad_questions": Source(Kind.PROMPT),
    "benign_instructions": Source(Kind.PROMPT),
    "dolly_subset": Source(Kind.PROMPT),
    "dstc8_user_turns": Source(Kind.PROMPT),
    "oasst_sample": Source(Kind.PROMPT),
    "realtoxicity_challenging": Source(Kind.COMMENT, ANY_TOXIC),
    "jigsaw_sample": Source(
        Kind.COMMENT, ANY_TOXIC, (), {"obscene": ("sexual", "insult"), "threat": _THREATS, "insult": ("insult",)}
    ),
    "bbq_identity_benign": Source(Kind.COMMENT),
}
# Two public sets overlap with the calls they answer: an answer under a benign instruction is an acceptable answer.
_WITH_ANSWERS = {"benign_instructions", "dolly_subset"}
# What ordinary users write: their acceptable rows, by kind.
ORDINARY = {
    Kind.PROMPT: (
        "benign_instructions", "dolly_subset", "dstc8_user_turns", "medquad_questions", "oasst_sample",
    ),
    Kind.COMMENT: ("jigsaw_sample", "wiki_context_toxicity", "wiki_toxicity_nonfuzzed", "sms_spam"),
}  # fmt: skip
UNLABELLED = (
    "lm_openstax", "lm_standardebooks", "lm_dialogues", "lm_taskmaster", "lm_wikitext", "lm_govdocs", "lm_medquad",
    "hh_harmless_test", "hh_redteam_turns", "ethics_commonsense",
)  # fmt: skip


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `.jsonl` or `.jsonl.gz` file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def public_examples(config: Config) -> Iterator[Example]:
    """The labelled rows of all public sets; rows whose harm is unknown are left out."""
    for name, source in SOURCES.items():
        for row in read_rows(config.data / f"{name}.jsonl.gz"):
            if row["harmful"] is None or not row["text"].strip():
                continue
            yield from _examples_of(name, source, row)


def _examples_of(name: str, source: Source, row: dict[str, Any]) -> Iterator[Example]:
    harmful = bool(row["harmful"])
    concepts = source.concepts if harmful else ()
    for label in row["labels"] or ():
        if harmful and label in source.by_label:
            concepts = source.by_label[label]
    if harmful and not concepts:
        return
    scope = () if harmful else source.scope
    answer = row.get("response")
    if source.kind is Kind.ANSWER:
        if answer and answer.strip():
            item = Item(text=answer, kind=Kind.ANSWER, prompt=row["text"])
            # what gives the harm asked for has not declined; what gives none may have done either
            refusal = "compliance" if harmful and name == "gptfuzz_responses" else ""
            yield Example(item, name, row["split"], harmful, concepts, scope, refusal=refusal)
        return
    yield Example(Item(text=row["text"], kind=source.kind), name, row["split"], harmful, concepts, scope)
    if name in _WITH_ANSWERS and answer and answer.strip():
        item = Item(text=answer, kind=Kind.ANSWER, prompt=row["text"])
        yield Example(item, f"{name}_answers", row["split"], harmful, refusal="compliance")


def preferred_answers(config: Config) -> list[tuple[Item, Item]]:
    """(more harmful, less harmful) answers to the same prompt, where people said which is which and no more."""
    found: dict[str, dict[str, Item]] = {}
    for row in read_rows(config.data / "hh_harmless_test.jsonl.gz"):
        labels = dict(label.split("=") if "=" in label else (label, "") for label in row["labels"])
        side = "rejected" if "rejected" in labels else "chosen"
        if row["split"] == "train" and row["response"].strip() and row["text"].strip():
            item = Item(text=row["response"], kind=Kind.ANSWER, prompt=row["text"])
            found.setdefault(labels["pair"], {})[side] = item
    return [(pair["rejected"], pair["chosen"]) for pair in found.values() if len(pair) == 2]


def authored_examples(config: Config) -> Iterator[Example]:
    """The items that we wrote ourselves; every tenth pair is held back as dev."""
    for path in sorted(config.authored.glob("*.jsonl")):
        pairs: dict[str, int] = {}
        for row in read_rows(path):
            number = pairs.setdefault(row["pair"], len(pairs))
            fields = {k: row[k] for k in ("text", "kind", "prompt", "parent") if row.get(k)}
            concepts = tuple(row["concepts"])
            yield Example(
                Item(**fields),
                f"authored_{path.stem}",
                "dev" if number % 10 == 9 else "train",
                bool(concepts),
                concepts,
                pair=f"{path.stem} {row['pair']}",
                refusal=row.get("refusal", ""),
            )


@lru_cache(maxsize=1)
def coverage() -> dict[str, dict[str, frozenset[str]]]:
    """policy id -> category id -> the concepts that it covers."""
    data = yaml.safe_load((Path(__file__).parent / "concepts.yaml").read_text(encoding="utf-8"))
    return {policy: {c: frozenset(v) for c, v in categories.items()} for policy, categories in data.items()}


def admissible(example: Example, policy: Policy, narrowed: bool) -> list[int] | None:
    """Indices of the labels (0: acceptable, then the categories) that may be right; None where nothing is known.

    An item that violates only what a narrowed policy has left out is acceptable under that policy.
    """
    if policy.id == "refusal":  # another question: whether it declined, not whether it harms
        labels = ["compliance", *(category.id for category in policy.categories)]
        if not example.refusal:
            return None
        right = [labels.index(example.refusal)] if example.refusal in labels else [0]
        # what declines a part and does harm with the rest may be called either
        return [0, *right] if example.harmful and right != [0] else right
    covers = [coverage()[policy.id][category.id] for category in policy.categories]
    if not example.harmful:
        if not example.scope:
            return [0]
        return [0, *(i for i, c in enumerate(covers, 1) if c.isdisjoint(example.scope))]
    hit = [i for i, c in enumerate(covers, 1) if not c.isdisjoint(example.concepts)]
    covered = frozenset().union(*coverage()[policy.id].values())
    certain = any(set(example.concepts) <= c for c in covers) or set(example.concepts) <= frozenset().union(*covers)
    if hit:
        return hit if certain or not narrowed else [0, *hit]
    # nothing is hit: acceptable if the full policy would have named it, unknown if no category of it ever speaks of it
    return [0] if set(example.concepts) <= covered else None
