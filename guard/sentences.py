"""A text → its sentences, as spans of the text; in linear time, whatever the text.

Every character that is not blank is in exactly one span. Where a mark does not end a sentence ("J. Smith"), a span too
many does no harm, so a few rules do and no language is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

Span = tuple[int, int]  # first character, and the one behind the last

_LONG = 200  # characters beyond which a sentence is cut at its clauses, and a clause between words
_CLOSING = r"[\"'”’»)\]」』）】]*+"
# A mark with white space or the text's end behind it (not "3.5"), a mark of a script that has no spaces, or a line end.
_SENTENCE = re.compile(rf"(?P<spaced>[.!?…؟۔।]++{_CLOSING})|[。！？｡]++{_CLOSING}|[\n\r\x85\u2028\u2029]++")
_CLAUSE = re.compile(rf"(?P<spaced>(?:[,;:،؛]|--?|[–—])++{_CLOSING})|[，、；：]++{_CLOSING}")
_WORD = re.compile(r"\S+")
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|[a-hj-z])$", re.IGNORECASE)


def sentences(text: str, most: int) -> list[Span]:
    """The spans of a text's sentences, in order, without the white space around them; none for a blank text.

    A sentence of more than 200 characters is cut at its clauses, a clause as long between words, a word as long
    anywhere. Where more than `most` spans would come out, neighbours are put together, so that all are of similar
    length.

    >>> text = "You are kind, Mr. Fox. Pay 3.5 now!  (Or not.) "
    >>> [text[start:end] for start, end in sentences(text, most=9)]
    ['You are kind, Mr. Fox.', 'Pay 3.5 now!', '(Or not.)']
    >>> [text[start:end] for start, end in sentences(text, most=2)]
    ['You are kind, Mr. Fox. Pay 3.5 now!', '(Or not.)']
    """
    return _at_most(most, len(text), _finer(text, _pieces(text, (0, len(text)), _SENTENCE)))


def _finer(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    """The same spans, those that are too long cut."""
    for sentence in spans:
        clauses = _pieces(text, sentence, _CLAUSE) if _is_long(sentence) else [sentence]
        yield from chain.from_iterable(_words(text, clause) if _is_long(clause) else [clause] for clause in clauses)


def _is_long(span: Span) -> bool:
    return span[1] - span[0] > _LONG


def _pieces(text: str, span: Span, ends: re.Pattern[str]) -> Iterator[Span]:
    """A span cut behind each end, white space left out."""
    found = (match.end() for match in ends.finditer(text, *span) if _is_end(text, match))
    for start, end in pairwise((span[0], *found, span[1])):
        piece = text[start:end]
        if stripped := piece.strip():
            start += len(piece) - len(piece.lstrip())
            yield start, start + len(stripped)


def _is_end(text: str, match: re.Match[str]) -> bool:
    if match["spaced"] is None:
        return True
    if match.end() < len(text) and not text[match.end()].isspace():
        return False
    return match[0] != "." or not _ABBREVIATED.search(text[max(0, match.start() - 5) : match.start()])


def _words(text: str, span: Span) -> Iterator[Span]:
    """As many whole words together as are not too long; a word that is too long by itself is cut."""
    start, end = span[0], span[0]
    for match in _WORD.finditer(text, *span):
        if match.end() - start > _LONG and end > start:
            yield start, end
            start = match.start()
        end = match.end()
        while end - start > _LONG:
            yield start, start + _LONG
            start += _LONG
    yield start, end


def _at_most(most: int, length: int, spans: Iterable[Span]) -> list[Span]:
    """The spans, or where they are too many, those that begin in the same `most`th of the text put together."""
    all_of_them = list(spans)
    if len(all_of_them) <= most:
        return all_of_them
    together: dict[int, Span] = {}
    for start, end in all_of_them:
        share = start * most // length
        together[share] = (together[share][0] if share in together else start, end)
    return list(together.values())
