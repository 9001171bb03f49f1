"""Stage 5: the model learns to answer the very prompts that are served.

Each step draws two batches, each of a kind of item, a shipped policy (whole, or narrowed to some categories, in any
order) and rows: contrast pairs of our own, an unacceptable text and its look-alike side by side, and single rows
balanced over sources and classes. The loss of a row is -log of the probability, among the policy's labels, of its
admissible ones (see `sources.py`). Of some answers it is known only that one is worse than another: there the loss is
-log of the probability that their scores stand that way round.
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
WORDS_EVERY = 5  # batches: the encoder takes a fourth of the time of one that has its part
PROBED = 200  # batches that the labels are fitted to before tuning
PROBE_DECAY = 1e-4  # per squared distance: the policies are read with these embeddings, too
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

    @property
    def labels(self) -> list[int]:
        """The policy's labels, of one token each; see `tokenizer.py`."""
        return [label[0] for label in self.prompt.labels]

    def asked(self, hidden: Tensor, starts: Tensor) -> Tensor:
        """The states (B, 384) out of (N, 384) at which the label is asked for: those of the rows' last tokens."""
        return hidden[starts + torch.tensor([len(row) for row in self.rows]) - 1]


class Sampler:
    """Draws batches that depend on the seed and their number alone."""

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

    def batch(self, number: int) -> Batch:
        """The batch of a number."""
        draw = random.Random(self._config.seed * 1_000_003 + number)
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
            for example in self._drawn(draw, kind, harmful=len(rows) % 2 == 0):
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

    def _drawn(self, draw: random.Random, kind: Kind, *, harmful: bool) -> list[Example]:
        """A contrast pair, or one row of some source and of that class: in turns, so that a batch is even."""
        if draw.random() < PAIR_SHARE / (2 - PAIR_SHARE):  # a pair is two rows
            return draw.choice(self._pairs[kind])
        sources, weights = self._groups[kind, harmful]
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

    def __init__(self, config: Config, sampler: Sampler, encoder: Encoder, fast: FastTokenizer) -> None:
        self._policies, self._sampler, self._encoder, self._fast = config.tune_policies, sampler, encoder, fast

    def begin(self, judge: MistralForCausalLM) -> None:
        """Even the weights out, then fit the labels' embeddings to the states as they are, and move nothing else
        (Kumar et al. 2022, arXiv 2202.10054: probe, then tune).

        No label has its share yet, so the loss begins far above that of guessing. Tuning alone would mend that by
        moving all states alike, and with them what tells texts apart: it ended so, with one answer to everything.
        """
        even_out(judge)
        seen = []
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # what is compiled here is of no use later
            for number in range(PROBED):
                batch = self._sampler.batch(-1 - number)
                hidden, starts = packed(judge, batch.prompt.prefix, batch.rows)
                seen.append((batch.asked(hidden, starts).float(), batch.labels, batch.answers))
        tokens = sorted({token for _, labels, _ in seen for token in labels})
        places = [torch.tensor([tokens.index(token) for token in labels]) for _, labels, _ in seen]
        weight = judge.lm_head.weight
        given = weight.detach()[tokens]
        fitted = given.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([fitted], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = [
                answer_loss(states @ fitted[place].T, answers)
                for (states, _, answers), place in zip(seen, places, strict=True)
            ]
            total: Tensor = torch.stack(found).mean() + PROBE_DECAY * (fitted - given).square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weight[tokens] = fitted.to(weight.dtype)

    def loss(self, judge: MistralForCausalLM, step: int) -> Tensor:
        """See the module. Under one policy a step would move all states towards what is frequent there."""
        first = step * self._policies
        losses = [self._loss(judge, number) for number in range(first, first + self._policies)]
        return torch.stack(losses).mean()

    def _loss(self, judge: MistralForCausalLM, number: int) -> Tensor:
        """That of a batch; the encoder's part keeps what `distil` taught from being lost to the labels."""
        batch = self._sampler.batch(number)
        hidden, starts = packed(judge, batch.prompt.prefix, batch.rows)
        labels = judge.lm_head.weight[torch.tensor(batch.labels)]
        loss = answer_loss((batch.asked(hidden, starts) @ labels.T).float(), batch.answers)
        if number % WORDS_EVERY:
            return loss
        encodings = self._fast.encode_batch(batch.texts, add_special_tokens=False)
        offsets = [encoding.offsets[: batch.text_tokens] for encoding in encodings]
        places = starts[: len(batch.texts)] + torch.tensor(batch.text_at)
        return loss + word_distance(hidden, places, offsets, self._encoder(batch.texts))


@torch.no_grad()
def even_out(judge: MistralForCausalLM) -> None:
    """Give the two matrices of each product the same size, which changes no answer: 4 up and down / 4 give what up and
    down give, and so do keys and queries, values and outputs.

    They come from `transplant` with sizes up to 50 times apart, and an optimiser's steps are as long for all.
    """
    for layer in judge.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for one, other in (
            (mlp.up_proj, mlp.down_proj), (attention.v_proj, attention.o_proj), (attention.q_proj, attention.k_proj),
        ):  # fmt: skip
            factor = (other.weight.square().mean() / one.weight.square().mean()) ** 0.25
            one.weight.mul_(factor)
            other.weight.div_(factor)


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


def tune(config: Config, inputs: str, judge: MistralForCausalLM, tuner: Tuner, stage: str = "tune") -> None:
    """`tune_steps` steps of the loss above."""
    loop.run(
        config, stage, inputs, judge, config.tune_learning_rate, config.tune_steps,
        lambda step: tuner.loss(judge, step), lambda: tuner.begin(judge),
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
