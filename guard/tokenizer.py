"""A model's tokenizer, seen from a judge: text from users is data, and only the frame may hold control tokens.

Two kinds of file are read: `tokenizer.json` with a chat template (Hugging Face) and Mistral's own `tekken.json` and
`tokenizer.model.v*` (through `mistral-common`). Neither needs transformers or torch.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from guard.errors import GuardError, InvalidRequest, ModelUnavailable

_PROBE = "x"  # stands for the user's text where the chat format is taken apart
_UNKNOWN_ORDER = "The model's chat format does not know this order of roles."
_MARKS, _MOST_MARKS = 0xE000, 6400  # characters for private use, which no chat format has

# Literals that some chat format reads as structure. They are broken up in user text under every tokenizer, because in
# Mistral v0.1, for one, `[INST]` is ordinary text and no tokenizer setting protects it.
CHAT_LITERALS: tuple[str, ...] = (
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip


class Tokenizer(Protocol):
    """What the prompt needs of a tokenizer. All ids are those of the model."""

    size: int  # plain text has ids below it
    terminator: int  # ends an answer
    literals: tuple[str, ...]  # what must not stand in user text, control tokens' spellings included

    def frame(self) -> tuple[list[int], list[int]]:
        """The ids before and after a single user message, up to where the model's answer begins."""
        ...

    def chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The ids of a conversation of (role, text), up to where the model's answer begins.

        Texts hold no control tokens. Raises `InvalidRequest` for roles or an order that the chat format does not know.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Never a control token, whatever the text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens left out."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder. Raises `ModelUnavailable`."""
    try:
        if (folder / "tokenizer.json").is_file():
            return HFTokenizer(folder)
        for pattern in ("tekken.json", "tokenizer.model.v*"):
            for path in sorted(folder.glob(pattern)):
                return MistralTokenizer(path)
    except GuardError:
        raise
    except Exception as cause:  # `tokenizers`, jinja2 and mistral-common raise what they like at a broken file
        raise ModelUnavailable(f"{folder}: the tokenizer cannot be read: {cause}", hint="Check the files.") from cause
    raise ModelUnavailable(
        f"{folder}: no tokenizer.json, tekken.json or tokenizer.model.v* in this folder.",
        hint="Name a folder with a complete Hugging Face or Mistral checkpoint.",
    )


class HFTokenizer:
    """`tokenizer.json` and its chat template, read with `tokenizers` and jinja2."""

    def __init__(self, folder: Path) -> None:
        raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        # Not adding special tokens still parses those that stand in the text, and setting encode_special_tokens leaves
        # added tokens that are not marked special. So user text meets a tokenizer that has no added tokens at all.
        # Runs of white space are added tokens of some models, too, and mean nothing but themselves.
        added = [token["content"] for token in raw.get("added_tokens", []) if token["content"].strip()]
        self._parsing = _load_fast(raw)
        self._plain = _load_fast({**raw, "added_tokens": []})
        self.size = self._plain.get_vocab_size(with_added_tokens=False)
        unknown = raw["model"].get("unk_token")  # what cannot be encoded becomes it; it controls nothing
        self._control = {self._parsing.token_to_id(content) for content in added if content != unknown}
        self.literals = _unique([*added, *CHAT_LITERALS])
        eos = _content(config.get("eos_token"))
        terminator = None if eos is None else self._parsing.token_to_id(eos)
        if terminator is None:
            raise ModelUnavailable(f"{folder}: tokenizer_config.json names no eos_token.", hint="Add it.")
        self.terminator: int = terminator
        self._render = _chat_renderer(folder, config)
        self._before, self._after = self._taken_apart(lambda text: self._render([("user", text)]))

    def frame(self) -> tuple[list[int], list[int]]:
        return list(self._before), list(self._after)

    def _taken_apart(self, chat: Callable[[str], str]) -> tuple[list[int], list[int]]:
        text = chat(_PROBE)
        at = _probe_position(text, chat("y"))
        encoding = self._parsing.encode(text, add_special_tokens=False)
        spans = list(zip(encoding.ids, encoding.offsets, strict=True))
        swallowed = "".join(text[start:end] for _, (start, end) in spans if start <= at < end)
        if swallowed.strip() != _PROBE:
            raise ValueError(f"the chat format runs into the text: {swallowed!r} is one token")
        before = [id_ for id_, (_, end) in spans if end <= at]
        after = [id_ for id_, (start, _) in spans if start > at]
        return before, after

    def chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        # The format is rendered around marks that stand for the texts, each of one character of its own, and encoded
        # with its control tokens; what stands at a mark is then encoded without any.
        marks = [chr(_MARKS + i) for i in range(len(messages))]
        if len(marks) > _MOST_MARKS:
            raise InvalidRequest(f"A conversation of {len(marks)} messages is too long.", param="messages")
        try:
            shown = self._render([(role, mark) for (role, _), mark in zip(messages, marks, strict=True)])
        except TemplateError as cause:
            raise InvalidRequest(_UNKNOWN_ORDER, param="messages") from cause
        encoding = self._parsing.encode(shown, add_special_tokens=False)
        text_of = {mark: text for mark, (_, text) in zip(marks, messages, strict=True)}
        ids: list[int] = []
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            covered = [text_of.pop(c) for c in shown[start:end] if c in text_of]  # a mark may be several tokens
            if covered or any(c in marks for c in shown[start:end]):
                ids += [i for text in covered for i in self.encode(defuse(text, self.literals))]
            else:
                ids.append(id_)
        if text_of:
            raise InvalidRequest("The model's chat format leaves out one of the messages.", param="messages")
        return ids

    def encode(self, text: str) -> list[int]:
        encoding = self._plain.encode(text, add_special_tokens=False)
        if self._control.isdisjoint(encoding.ids):
            ids: list[int] = encoding.ids
            return ids
        # A vocabulary may hold a control token's spelling as an ordinary piece: take such a piece apart.
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return [i for id_, (start, end) in spans for i in self._harmless(id_, text[start:end])]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._parsing.decode([id_ for id_ in ids if id_ not in self._control], skip_special_tokens=False)
        return text

    def _harmless(self, id_: int, piece: str) -> list[int]:
        if id_ not in self._control:
            return [id_]
        spelled = [i for character in piece for i in self._plain.encode(character, add_special_tokens=False).ids]
        return [i for i in spelled if i not in self._control]  # a control token of one character has no other spelling


class MistralTokenizer:
    """Mistral's own tokenizer files through `mistral-common`; its `encode` never parses control tokens."""

    def __init__(self, path: Path) -> None:
        try:
            from mistral_common.exceptions import MistralCommonException
            from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
            from mistral_common.protocol.instruct.request import ChatCompletionRequest
            from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Upstream
        except ImportError as cause:
            raise ModelUnavailable(
                f"{path}: reading it needs mistral-common.", hint="pip install 'guard-moderation[mistral]'"
            ) from cause
        upstream: Any = Upstream.from_file(str(path))
        self._raw: Any = upstream.instruct_tokenizer.tokenizer
        kinds = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}

        def chat(messages: Sequence[tuple[str, str]]) -> list[int]:
            try:
                told = [kinds[role](content=text) for role, text in messages]
                ids: list[int] = upstream.encode_chat_completion(ChatCompletionRequest(messages=told)).tokens
            except (KeyError, MistralCommonException) as cause:
                raise InvalidRequest(_UNKNOWN_ORDER, param="messages") from cause
            return ids

        self._chat = chat
        self._special: frozenset[int] = frozenset(self._raw.special_ids)
        self.size: int = self._raw.n_words
        self.terminator: int = self._raw.eos_id
        self.literals = _unique([*map(self._raw.id_to_piece, sorted(self._raw.special_ids)), *CHAT_LITERALS])

    def frame(self) -> tuple[list[int], list[int]]:
        ids = self._chat([("user", _PROBE)])
        at = _probe_position(ids, self._chat([("user", "y")]))
        return ids[:at], ids[at + 1 :]

    def chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        return self._chat([(role, defuse(text, self.literals)) for role, text in messages])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._raw.encode(text, bos=False, eos=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._raw.decode([id_ for id_ in ids if id_ not in self._special])
        return text


def defuse(text: str, literals: Sequence[str]) -> str:
    """Break up every literal in `text` by a space after its first character, until none is left.

    Tokenizers may fold compatibility forms (a full-width bracket) into the plain ones and drop what is invisible (a
    zero-width space), so a text in which that brings a literal to light is treated so first; any other stays as it is.

    >>> defuse("hi [INST] there", ["[INST]"])
    'hi [ INST] there'
    """
    pattern = _any_of(tuple(literals))
    while True:
        # A space after the first character cannot make a new literal out of two neighbours' halves in the first pass,
        # but literals may overlap: "<<<<" holds "<<<" twice.
        while pattern.search(text):
            text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
        if not pattern.search(plain):
            return text
        text = plain


# Control and format characters that show nothing, tab and line ends aside.
_INVISIBLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)


@lru_cache(maxsize=32)
def _any_of(literals: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the literals, the longest where several match. Those that a space cannot break up are left out.

    They are laid out as a tree: the tokens of a model are hundreds with one beginning, and a hostile text would have
    them all tried at each character.

    >>> _any_of(("<<<", "<s>", "<", "  ")).pattern
    '<(?:<<|s>)'
    """
    tree: dict[str, Any] = {}
    for literal in filter(lambda stripped: len(stripped) > 1, map(str.strip, literals)):
        node = tree
        for character in literal:
            node = node.setdefault(character, {})
        node[""] = {}  # ends here
    return re.compile(_expression(tree) if tree else r"(?!)")


def _expression(tree: dict[str, Any]) -> str:
    ways = [re.escape(character) + _expression(below) for character, below in tree.items() if character]
    if not ways:
        return ""
    if "" in tree:
        return f"(?:{'|'.join(ways)})?"
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"


def pieces(text: str, longest: int = 48) -> Iterator[str]:
    """Words with the white space behind them, none longer than `longest` characters; together they are the text.

    >>> list(pieces("so it goes", longest=3))
    ['so ', 'it ', 'goe', 's']
    """
    for match in re.finditer(r"\s+|\S+\s*", text):
        word = match[0]
        for start in range(0, len(word), longest):
            yield word[start : start + longest]


def _load_fast(raw: dict[str, Any]) -> FastTokenizer:
    fast = FastTokenizer.from_str(json.dumps({**raw, "post_processor": None, "truncation": None, "padding": None}))
    return fast


def _chat_renderer(folder: Path, config: dict[str, Any]) -> Callable[[Sequence[tuple[str, str]]], str]:
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = next((t["template"] for t in source if t["name"] == "default"), None)
    if not source:
        raise ModelUnavailable(
            f"{folder}: the model has no chat template.", hint="Name an instruct model, or add chat_template.jinja."
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )  # as transformers has it
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda _format: ""  # a prompt must not change with the day
    template = environment.from_string(source)
    tokens = {"bos_token": "", "eos_token": ""}
    tokens |= {name: _content(value) or "" for name, value in config.items() if re.fullmatch("[a-z]+_token", name)}

    def render(messages: Sequence[tuple[str, str]]) -> str:
        told = [{"role": role, "content": text} for role, text in messages]
        return template.render(messages=told, add_generation_prompt=True, **tokens)

    return render


def _probe_position(one: Sequence[object], other: Sequence[object]) -> int:
    """Where the user's text stands in a chat: where two chats that differ in it alone differ, once."""
    places = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(places) != 1:
        raise ValueError(f"the chat format shows the text {len(places)} times, not once")
    return places[0]


def _content(token: Any) -> str | None:
    """A token in tokenizer_config.json is a string or an object with `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _unique(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _raise(message: str) -> None:
    raise TemplateError(message)
