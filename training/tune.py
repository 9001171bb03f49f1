"""Stage 5: the model learns to answer the very prompts that are served.

Each step draws a kind of item, a shipped policy (whole, or narrowed to some categories, in any order) and a batch of
rows: contrast pairs of our own, an unacceptable text and its look-alike side by side, and single rows balanced over
sources and classes. The loss of a row is -log of the probability, among the policy's labels, of its admissible ones
(see `sources.py`). Of some answers it is known only that one is worse than another: there the loss is -log of the
probability that their scores stand that way round.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor
from transformers import MistralForCausalLM

from guard.item import Item, Kind
from guard.policy import Policy
from guard.prompt import Content, Prompt, load_template
from guard.tokenizer import Tokenizer
from training import loop
from training.config import KINDS, Config, trained_policies
from training.distil import LONGEST, word_distance
from training.encoder import Encoder
from training.model import packed
from training.noise import accompanied, noised
from training.sources import ORDINARY, SOURCE_CAP, Example, admissible

# How often an item of one kind is judged as which kind: an endpoint for prompts gets comments too, and the reverse.
JUDGED_AS = {
    Kind.COMMENT: ((Kind.COMMENT, 0.65), (Kind.PROMPT, 0.35)),
    Kind.PROMPT: ((Kind.PROMPT, 0.85), (Kind.COMMENT, 0.15)),
    Kind.ANSWER: ((Kind.ANSWER, 1.0),),
}
KIND_SHARE = ((Kind.COMMENT, 0.42), (Kind.PROMPT, 0.36), (Kind.ANSWER, 0.22))
POLICY_SHARE = {
    "forum-comments": 3.0,
    "moderation-13": 4.0,
    "self-reflection": 1.5,
    "mistral-9": 0.6,
    "mistral-11": 0.6,
    "refusal": 1.5,
}
T = TypeVar("T")
# Sources that know one class alone teach their own style as that class; templates teach little; the many that know hate
# alone would drown the other names.
SOURCE_FACTOR = {
    "civil_toxic_annot": 0.5, "civil_toxic_spans": 0.5, "wiki_context_toxicity": 0.5, "bbq_identity_benign": 0.5,
    "medquad_questions": 0.5, "dstc8_user_turns": 0.5, "bias_madlibs": 0.3,
}  # fmt: skip
AUTHORED_FACTOR, HATE_ALONE_FACTOR = 3.0, 0.8
PAIR_SHARE = 0.3  # of the rows
PREFERENCES = 4  # pairs of answers in a batch of answers
NOISY = 0.08  # of the rows: misspelled or in disguise
ACCOMPANIED = 0.12  # of the rows that are short enough: harmless texts, asides or marks around them
COMPANY = 200  # characters at most of a text that is accompanied; of each of the up to three others, half as many
SMOOTHING = 0.03  # labels that are wrong
WORDS_EVERY = 4  # steps: the encoder takes a fourth of the time of a step that has its part
LONG_SHARE, LONG = 0.1, 3  # of the batches, in which texts are so many times as long and rows as few


@dataclass(frozen=True)
class Batch:
    """A prompt and rows of content and question ids: first those whose admissible label indices are `answers`, then
    pairs of answers, the worse one first. `texts` are the labelled rows' texts as they begin at `text_at` in the rows;
    empty where a text is in disguise."""

    prompt: Prompt
    rows: list[list[int]]
    answers: list[list[int]]
    texts: list[str]
    text_at: list[int]
    text_tokens: int  # the most that a row holds of its text


class Sampler:
    """Draws batches that depend on the seed and the step's number alone."""

    def __init__(
        self, config: Config, examples: Sequence[Example], preferred: Sequence[tuple[Item, Item]], tokenizer: Tokenizer
    ) -> None:
        self._config, self._preferred, self._tokenizer = config, preferred, tokenizer
        pairs: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            if example.pair:
                pairs[example.pair].append(example)
        self._pairs = {kind: [p for p in pairs.values() if p[0].item.kind is kind] for kind in KINDS}
        self._company = {kind: [e.item.text for e in examples if _harmless(e, kind)] for kind in KINDS}
        self._policies = {policy.id: policy for policy in trained_policies()}
        self._templates = {kind: load_template(kind) for kind in KINDS}
        groups: dict[tuple[Kind, bool], dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            groups[example.item.kind, example.harmful][example.source].append(example)
        self._groups = {
            key: (list(by_source.values()), [self._weight(name, rows) for name, rows in by_source.items()])
            for key, by_source in groups.items()
        }

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        draw = random.Random(self._config.seed * 1_000_003 + step)
        kind = _pick(draw, KIND_SHARE)
        judged_as = _pick(draw, JUDGED_AS[kind])
        policy, narrowed = self._policy(draw, judged_as)
        prompt = Prompt(self._templates[judged_as], policy, self._tokenizer)
        stretch = LONG if draw.random() < LONG_SHARE else 1
        longest, text_tokens = LONGEST * stretch, self._config.content_tokens * stretch
        rows: list[list[int]] = []
        answers: list[list[int]] = []
        texts: list[str] = []
        places: list[int] = []
        while len(rows) < self._config.tune_rows // (1 if stretch == 1 else 4):
            for example in self._drawn(draw, kind):
                right = admissible(example, policy, narrowed)
                if right is None or len(right) > len(policy.categories):
                    continue
                if stretch > 1 and len(example.item.text) < LONGEST:
                    continue
                text, noisy = example.item.text, draw.random() < NOISY
                start = draw.randrange(len(text) - longest) if len(text) > longest and not example.harmful else 0
                text = noised(draw, text) if noisy else text[start : start + longest]
                if len(text) <= COMPANY and policy.id != "refusal" and draw.random() < ACCOMPANIED:
                    text = accompanied(draw, text, self._company[kind])
                item = example.item.model_copy(update={"kind": judged_as, "text": text})
                row, content = self._row(prompt, item, text_tokens)
                rows.append(row)
                answers.append(right)
                texts.append("" if noisy else content.text)
                places.append(len(content.before))
        pairs = draw.sample(self._preferred, PREFERENCES) if judged_as is Kind.ANSWER and policy.id != "refusal" else []
        rows += [self._row(prompt, item, text_tokens)[0] for pair in pairs for item in pair]
        return Batch(prompt, rows, answers, texts, places, text_tokens)

    def _row(self, prompt: Prompt, item: Item, text_tokens: int) -> tuple[list[int], Content]:
        """Ids of content and question, and the content that they were made of."""
        content = prompt.content(item)
        text = prompt.encode(content.text)[:text_tokens]
        return [*content.before, *text, *content.after, *prompt.question], content

    def _drawn(self, draw: random.Random, kind: Kind) -> list[Example]:
        """A contrast pair, or one row of some source."""
        if draw.random() < PAIR_SHARE / (2 - PAIR_SHARE):  # a pair is two rows
            return draw.choice(self._pairs[kind])
        sources, weights = self._groups[kind, draw.random() < 0.5]
        return [draw.choice(draw.choices(sources, weights)[0])]

    def _weight(self, name: str, rows: list[Example]) -> float:
        weight = float(min(len(rows), SOURCE_CAP) ** 0.6) * SOURCE_FACTOR.get(name, 1.0)
        if name.startswith("authored"):
            return weight * AUTHORED_FACTOR
        return weight * (
            HATE_ALONE_FACTOR if rows[0].harmful and set(rows[0].concepts) <= {"hate", "hate_threat"} else 1
        )

    def _policy(self, draw: random.Random, kind: Kind) -> tuple[Policy, bool]:
        fitting = {name: p for name, p in self._policies.items() if kind in p.kinds}
        name = _pick(draw, tuple((name, POLICY_SHARE[name]) for name in fitting))
        policy = fitting[name]
        if draw.random() < 0.45 or policy.id == "refusal":
            return policy, False
        categories = list(policy.categories)
        narrowed = len(categories) > 1 and draw.random() < 0.5
        if narrowed:
            categories = draw.sample(categories, draw.randint(1, len(categories) - 1))
        else:
            draw.shuffle(categories)
        left_out = [category for category in policy.categories if category not in categories]
        ordered = policy.model_copy(update={"categories": (*categories, *left_out)})
        return ordered.narrowed([category.id for category in categories], kind), narrowed


class Tuner:
    """The loss of a step: labels, preferences, and that the words are still read as the encoder reads them."""

    def __init__(self, sampler: Sampler, encoder: Encoder, fast: FastTokenizer) -> None:
        self._sampler, self._encoder, self._fast = sampler, encoder, fast

    def loss(self, judge: MistralForCausalLM, step: int) -> Tensor:
        """See the module; the encoder's part keeps what `distil` taught from being lost to the labels."""
        batch = self._sampler.batch(step)
        hidden, starts = packed(judge, batch.prompt.prefix, batch.rows)
        ends = starts + torch.tensor([len(row) for row in batch.rows]) - 1
        labels = torch.tensor([label[0] for label in batch.prompt.labels])  # single tokens; see `tokenizer.py`
        loss = answer_loss((hidden[ends] @ judge.lm_head.weight[labels].T).float(), batch.answers)
        if step % WORDS_EVERY:
            return loss
        encodings = self._fast.encode_batch(batch.texts, add_special_tokens=False)
        offsets = [encoding.offsets[: batch.text_tokens] for encoding in encodings]
        places = starts[: len(batch.texts)] + torch.tensor(batch.text_at)
        return loss + word_distance(hidden, places, offsets, self._encoder(batch.texts))


def answer_loss(logits: Tensor, answers: list[list[int]]) -> Tensor:
    """Mean over labelled rows of -log P(admissible), a little smoothed, plus half of the mean over preferences.

    `logits` (B, C + 1): first the rows of `answers`, then pairs, the worse answer first.
    """
    labelled, pairs = logits[: len(answers)], logits[len(answers) :]
    wrong = torch.ones_like(labelled, dtype=torch.bool)
    for row, right in enumerate(answers):
        wrong[row, right] = False
    total = labelled.logsumexp(-1)
    right_ones = labelled.masked_fill(wrong, float("-inf")).logsumexp(-1)
    wrong_ones = labelled.masked_fill(~wrong, float("-inf")).logsumexp(-1)
    loss = (total - (1 - SMOOTHING) * right_ones - SMOOTHING * wrong_ones).mean()
    if len(pairs):
        score = pairs[:, 1:].logsumexp(-1) - pairs[:, 0]
        loss = loss + 0.5 * torch.nn.functional.softplus(score[1::2] - score[::2]).mean()
    return loss


def tune(config: Config, inputs: str, judge: MistralForCausalLM, tuner: Tuner) -> None:
    """`tune_steps` steps of the loss above."""
    loop.run(
        config, "tune", inputs, judge, config.tune_learning_rate, config.tune_steps,
        lambda step: tuner.loss(judge, step),
    )  # fmt: skip


def _harmless(example: Example, kind: Kind) -> bool:
    """May it stand beside another item of that kind without changing what that is?"""
    known = (*ORDINARY.get(kind, ()), "benign_instructions_answers", "dolly_subset_answers")
    return (
        example.item.kind is kind and not example.harmful and len(example.item.text) <= COMPANY // 2
        and (example.source in known or example.source.startswith("authored"))
    )  # fmt: skip


def _pick(draw: random.Random, shares: Sequence[tuple[T, float]]) -> T:
    return draw.choices([value for value, _ in shares], [share for _, share in shares])[0]
