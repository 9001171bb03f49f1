"""Stage 2: a byte-level BPE tokenizer of our own, on the training text and on the words of our prompts.

Every label of a shipped policy becomes one token, so that a verdict is read from one row of logits. The pattern keeps
words joined by `/`, `_` or `-` together for that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from guard.prompt import load_template
from training.config import KINDS, Config, trained_policies

SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+(?:[/_\-]\p{L}+)*|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
    "{% else %}[INST]{{ message['content'] }}[/INST]{% endif %}{% endfor %}"
)


def labels() -> list[str]:
    """Every label of every policy that is trained."""
    names = {
        name for policy in trained_policies() for name in (policy.acceptable, *(c.name for c in policy.categories))
    }
    return sorted(names)


def _frames() -> str:
    templates = [load_template(kind) for kind in KINDS]
    return "\n".join(f"{t.policy_text(policy)}\n{t.question}" for t in templates for policy in trained_policies())


def fast(config: Config) -> Tokenizer:
    """The trained tokenizer with its offsets, which the judge's own wrapper does not show."""
    return Tokenizer.from_file(str(config.tokenizer / "tokenizer.json"))


def train(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Train the tokenizer and write the Hugging Face files into `config.tokenizer`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def corpus() -> Iterator[str]:
        yield from texts
        # weight, so that the prompts' words and the labels end as single tokens
        for _ in range(2000):
            yield _frames()
        for label in labels():
            for _ in range(20_000):
                yield label

    tokenizer.train_from_iterator(corpus(), trainer)
    split = [label for label in labels() if len(tokenizer.encode(label).ids) != 1]
    if split:
        raise RuntimeError(f"labels that are not one token: {split}")
    config.tokenizer.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(config.tokenizer / "tokenizer.json"))
    (config.tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "model_max_length": config.max_positions,
                "clean_up_tokenization_spaces": False,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    (config.tokenizer / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return tokenizer
