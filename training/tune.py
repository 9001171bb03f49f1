"""Stages 4 and 5: the model learns to answer the very prompts that are served.

Each step draws a kind of item, a shipped policy (whole, or narrowed to some categories, in any order) and a batch of
rows, balanced over sources and classes. The loss of a row is -log of the probability, among the policy's labels, of
its admissible ones (see `corpus.py`).

`tune` goes through all sources. `refine` then gives half of each batch to our own contrast pairs, an unacceptable text
and its look-alike side by side, and less of the rest to the many sets that know hate alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import MistralForCausalLM

from guard.item import Kind
from guard.policy import Policy, PolicyBook
from guard.prompt import Prompt, load_template
from guard.tokenizer import Tokenizer
from training import loop
from training.config import Config
from training.corpus import Example, admissible
from training.model import layout

# How often an item of one kind is judged as which kind: an endpoint for prompts gets comments too, and the reverse.
JUDGED_AS = {
    Kind.COMMENT: ((Kind.COMMENT, 0.65), (Kind.PROMPT, 0.35)),
    Kind.PROMPT: ((Kind.PROMPT, 0.85), (Kind.COMMENT, 0.15)),
    Kind.ANSWER: ((Kind.ANSWER, 1.0),),
}
KIND_SHARE = ((Kind.COMMENT, 0.5), (Kind.PROMPT, 0.27), (Kind.ANSWER, 0.23))
POLICY_SHARE = {
    "forum-comments": 3.0,
    "moderation-13": 3.0,
    "self-reflection": 1.5,
    "mistral-9": 0.75,
    "mistral-11": 0.75,
}
T = TypeVar("T")
SOURCE_CAP = 6000  # rows: a larger source is drawn no more often than one of this size


class Sampler:
    """Draws batches that depend on the seed and the step's number alone."""

    def __init__(
        self, config: Config, examples: Sequence[Example], tokenizer: Tokenizer, pair_share: float = 0.0
    ) -> None:
        self._config, self._tokenizer, self._pair_share = config, tokenizer, pair_share
        pairs: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            if example.pair:
                pairs[example.pair].append(example)
        self._pairs = {kind: [p for p in pairs.values() if p[0].item.kind is kind] for kind in Kind}
        self._policies = {policy.id: policy for policy in PolicyBook()}
        self._templates = {kind: load_template(kind) for kind in Kind}
        groups: dict[tuple[Kind, bool], dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            groups[example.item.kind, example.harmful][example.source].append(example)
        self._groups = {
            key: (list(by_source.values()), [self._weight(name, rows) for name, rows in by_source.items()])
            for key, by_source in groups.items()
        }

    def batch(self, step: int) -> tuple[Prompt, list[list[int]], list[list[int]]]:
        """A prompt, B rows of content + question ids, and the admissible label indices of each."""
        draw = random.Random(self._config.seed * 1_000_003 + step)
        kind = _pick(draw, KIND_SHARE)
        judged_as = _pick(draw, JUDGED_AS[kind])
        policy, narrowed = self._policy(draw, judged_as)
        prompt = Prompt(self._templates[judged_as], policy, self._tokenizer)
        rows: list[list[int]] = []
        answers: list[list[int]] = []
        while len(rows) < self._config.tune_rows:
            for example in self._drawn(draw, kind):
                right = admissible(example, policy, narrowed)
                if right is None or len(right) > len(policy.categories):
                    continue
                content = prompt.content(example.item.model_copy(update={"kind": judged_as}))
                text = prompt.encode(content.text)
                room = self._config.content_tokens
                start = draw.randrange(len(text) - room) if len(text) > room and not example.harmful else 0
                rows.append([*content.before, *text[start : start + room], *content.after, *prompt.question])
                answers.append(right)
        return prompt, rows, answers

    def _drawn(self, draw: random.Random, kind: Kind) -> list[Example]:
        """A contrast pair, or one row of some source."""
        if draw.random() < self._pair_share / (2 - self._pair_share):  # a pair is two rows
            return draw.choice(self._pairs[kind])
        sources, weights = self._groups[kind, draw.random() < 0.5]
        return [draw.choice(draw.choices(sources, weights)[0])]

    def _weight(self, name: str, rows: list[Example]) -> float:
        weight = float(min(len(rows), SOURCE_CAP) ** 0.6)
        if not self._pair_share:
            return weight * (4 if name.startswith("authored") else 1)
        return weight * (0.3 if rows[0].harmful and set(rows[0].concepts) <= {"hate", "hate_threat"} else 1)

    def _policy(self, draw: random.Random, kind: Kind) -> tuple[Policy, bool]:
        fitting = {name: p for name, p in self._policies.items() if kind in p.kinds}
        name = _pick(draw, tuple((name, POLICY_SHARE[name]) for name in fitting))
        policy = fitting[name]
        if draw.random() < 0.35:
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


def tune(config: Config, model: MistralForCausalLM, sampler: Sampler, stage: str, rate: float, steps: int) -> None:
    """`steps` steps of the loss above."""

    def step_loss(step: int) -> Tensor:
        prompt, rows, answers = sampler.batch(step)
        return admissible_loss(model, prompt, rows, answers)

    loop.run(config, stage, model, rate, steps, step_loss)


def admissible_loss(
    model: MistralForCausalLM, prompt: Prompt, rows: list[list[int]], answers: list[list[int]]
) -> Tensor:
    """Mean over rows of -log P(admissible labels | labels)."""
    logits = label_logits(model, prompt, rows)  # (B, C + 1)
    wrong = torch.ones_like(logits, dtype=torch.bool)
    for row, right in enumerate(answers):
        wrong[row, right] = False
    kept = logits.masked_fill(wrong, float("-inf"))
    return (logits.logsumexp(-1) - kept.logsumexp(-1)).mean()


def label_logits(model: MistralForCausalLM, prompt: Prompt, rows: list[list[int]]) -> Tensor:
    """Logits of the labels behind each row: (B, C + 1). Labels are single tokens here; see `tokenizer.py`."""
    prefix = len(prompt.prefix)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    lengths = [len(rows[i]) for i in order]
    tokens = [*prompt.prefix, *(token for i in order for token in rows[i])]
    positions = [*range(prefix), *(prefix + place for length in lengths for place in range(length))]
    hidden = model.model(
        input_ids=torch.tensor(tokens)[None], position_ids=torch.tensor(positions)[None], use_cache=False,
        prefix=prefix, groups=layout(prefix, lengths),
    ).last_hidden_state[0]  # fmt: skip
    ends = prefix + torch.tensor(lengths).cumsum(0) - 1  # of the rows in sorted order
    back = torch.tensor(order).argsort()
    labels = torch.tensor([label[0] for label in prompt.labels])
    logits: Tensor = hidden[ends[back]] @ model.lm_head.weight[labels].T
    return logits.float()


def _pick(draw: random.Random, shares: Sequence[tuple[T, float]]) -> T:
    return draw.choices([value for value, _ in shares], [share for _, share in shares])[0]
