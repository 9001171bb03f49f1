"""What several tests build: tokenizers of every kind, policies, moderators on the fake engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mistral_common
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from guard.engine.fake import FakeEngine
from guard.engine.request import LogProbs, Request
from guard.errors import EngineError
from guard.item import Kind
from guard.moderator import Moderator
from guard.policy import Policy, PolicyBook
from guard.resources import shipped
from guard.settings import Settings
from guard.tokenizer import MistralTokenizer, load_tokenizer
from guard.tokenizer import Tokenizer as JudgeTokenizer

# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

_MISTRAL = Path(mistral_common.__file__).parent / "data"
MISTRAL_FILES = {
    "mistral-v1": ("tokenizer.model.v1", "tokenizer.model.v1"),
    "mistral-v2": ("mistral_instruct_tokenizer_240216.model.v2", "tokenizer.model.v2"),
    "mistral-v3": ("mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v3"),
    "mistral-v7": ("mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model.v7"),
    "tekken-240718": ("tekken_240718.json", "tekken.json"),
    "tekken-240911": ("tekken_240911.json", "tekken.json"),
}

LLAMA3_SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(248)),
]  # fmt: skip
LLAMA3_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
QWEN_ORDINARY = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>"]  # added, yet not "special"
QWEN_CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA2_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
)
_GPT = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def hostile_literals() -> list[str]:
    """Spellings that some tokenizer or template reads as structure."""
    return [
        *LLAMA3_SPECIAL[:6], *QWEN_SPECIAL, *QWEN_ORDINARY, "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]",
        "<<SYS>>", "<</SYS>>", "[IMG]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "[control_8]",
        "<SPECIAL_20>", "<<<", ">>>", "<start_of_turn>", "<|assistant|>", "<0x0A>", "▁",
    ]  # fmt: skip


def _corpus() -> list[str]:
    """Some prose, and the hostile spellings often enough that they become whole pieces of a vocabulary."""
    prose = (shipped("prompts") / "policies" / "moderation-13.yaml").read_text(encoding="utf-8").splitlines()
    return prose * 3 + ["Which category is the prompt? Answer with its name only."] * 3 + hostile_literals() * 60


def _byte_level(*, ignore_merges: bool = False) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GPT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    raw["model"]["ignore_merges"] = ignore_merges
    return raw


def _with_added(raw: dict[str, Any], special: Sequence[str], ordinary: Sequence[str] = ()) -> Tokenizer:
    """Added tokens that the vocabulary lacks get ids beyond it."""
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_special_tokens([AddedToken(x, normalized=False, special=True) for x in special])
    tokenizer.add_tokens([AddedToken(x, normalized=False, special=False) for x in ordinary])
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, chat: str, bos: str | None, eos: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": bos, "eos_token": {"content": eos, "__type": "AddedToken"}, "chat_template": chat}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _llama3(folder: Path) -> None:
    """Byte-level BPE with `ignore_merges`; special tokens beyond the vocabulary."""
    tokenizer = _with_added(_byte_level(ignore_merges=True), LLAMA3_SPECIAL)
    _write(folder, tokenizer, LLAMA3_CHAT, "<|begin_of_text|>", "<|eot_id|>")


def _qwen(folder: Path) -> None:
    """ChatML; NFC; some added tokens are not marked special, so `encode_special_tokens` would still parse them."""
    raw = _byte_level()
    raw["normalizer"] = {"type": "NFC"}
    _write(folder, _with_added(raw, QWEN_SPECIAL, QWEN_ORDINARY), QWEN_CHAT, None, "<|im_end|>")


def _sentencepiece(folder: Path, *, normalizer: normalizers.Normalizer | None = None) -> None:
    """Metaspace, byte fallback, and control tokens that the model builds from plain text: `</s>` is id 2 either way."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=600, show_progress=False))
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    merges = [("<", "s"), ("<s", ">"), ("<", "/"), ("</", "s"), ("</s", ">"), ("\n", "\n")]
    merges = list(dict.fromkeys([*merges, *map(tuple, raw["model"]["merges"])]))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "€", "\n"]
    pieces += sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    pieces += [a + b for a, b in merges]
    raw["model"]["vocab"] = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    raw["model"]["merges"] = [
        list(m) for m in merges if m[0] in raw["model"]["vocab"] and m[1] in raw["model"]["vocab"]
    ]
    tokenizer = _with_added(raw, ["<unk>", "<s>", "</s>", "€"], ["\n\n"])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    _write(folder, tokenizer, LLAMA2_CHAT, "<s>", "</s>")


def _folding(folder: Path) -> None:
    """As T5's and XLM-R's: compatibility forms are folded and zero-width characters dropped before tokenizing."""
    dropped = normalizers.Replace(Regex("[\\x{200b}-\\x{200f}\\x{2060}\\x{feff}\\x{ad}]"), "")
    _sentencepiece(folder, normalizer=normalizers.Sequence([dropped, normalizers.NFKC()]))


def _white_space(folder: Path) -> None:
    """As Gemma's and GPT-NeoX's: runs of white space are added tokens, and HTML tags."""
    tokenizer = _with_added(
        _byte_level(),
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        ["\n\n", "  ", "    ", "<h1>", "</table>"],
    )
    chat = "{{ bos_token }}<start_of_turn>user\n{{ messages[0].content | trim }}<end_of_turn>\n<start_of_turn>model\n"
    _write(folder, tokenizer, chat, "<bos>", "<eos>")


def _mistral(file: str, name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copy(_MISTRAL / file, folder / name)

    return write


def _embedded(folder: Path) -> None:
    for path in (shipped("models") / "embedded").iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder)


HF = {
    "embedded": _embedded, "llama3": _llama3, "qwen": _qwen, "sentencepiece": _sentencepiece, "folding": _folding,
    "white-space": _white_space,
}  # fmt: skip
WRITERS: dict[str, Callable[[Path], None]] = {**HF, **{name: _mistral(*names) for name, names in MISTRAL_FILES.items()}}


class Known:
    """A tokenizer under test, with the means to look through it: its control ids and a decoder."""

    def __init__(self, name: str) -> None:
        with TemporaryDirectory() as made:
            folder = Path(made)
            WRITERS[name](folder)
            self.tokenizer: JudgeTokenizer = load_tokenizer(folder)
            if isinstance(self.tokenizer, MistralTokenizer):
                raw = self.tokenizer._raw
                self.control = {raw.id_to_piece(i): i for i in raw.special_ids}
                self.decode: Callable[[list[int]], str] = raw.decode
            else:
                fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
                added = fast.get_added_tokens_decoder()
                self.control = {t.content: i for i, t in added.items() if t.content.strip() and t.content != "<unk>"}
                self.decode = lambda ids: fast.decode(ids, skip_special_tokens=False)


@cache
def known(name: str) -> Known:
    """One of `WRITERS`, made once."""
    return Known(name)


def embedded() -> JudgeTokenizer:
    return known("embedded").tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# Policies and moderators


def category(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "description": f"about {id}", **more}


def policy(*categories: dict[str, Any], **more: Any) -> Policy:
    """A policy of the categories given; by default `hate` and `spam`."""
    return Policy.model_validate(
        {"id": "p", "version": 1, "categories": categories or (category("hate"), category("spam")), **more}
    )


class ByText(FakeEngine):
    """Answers each request by the words that its content holds: {word: probabilities}, else `otherwise`."""

    def __init__(self, answers: dict[str, Any], otherwise: Sequence[float], max_tokens: int = 4096) -> None:
        super().__init__(None, max_tokens)
        self._answers, self._otherwise = answers, otherwise

    def score(self, requests: Sequence[Request]) -> list[LogProbs | EngineError]:
        self.seen.extend(requests)
        return [self._found(request) for request in requests]

    def _found(self, request: Request) -> LogProbs | EngineError:
        text = known("embedded").decode(list(request.segments[1]))
        found = next((answer for word, answer in self._answers.items() if word in text), self._otherwise)
        return found if isinstance(found, EngineError) else FakeEngine([found]).score([request])[0]


class Raw(FakeEngine):
    """Gives back exactly what it was made with, whatever was asked."""

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__()
        self._raw = answers

    def score(self, requests: Sequence[Request]) -> list[Any]:
        self.seen.extend(requests)
        return list(self._raw)


@cache
def shipped_policies() -> PolicyBook:
    return PolicyBook()


def moderator(engine: Any = None, **settings: Any) -> Moderator:
    """A moderator on the fake engine and the embedded tokenizer, untouched by the environment."""
    book = None if "policies" in settings else shipped_policies()
    return Moderator(engine or FakeEngine(), embedded(), policies=book, settings=Settings.model_construct(**settings))


def texts(request: Request) -> str:
    """What an engine was asked, in words."""
    return known("embedded").decode([i for segment in request.segments for i in segment])


ALL_KINDS = tuple(Kind)
