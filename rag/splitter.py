"""Cuts documents into passages for search: as long as search finds best and the embedding model reads whole.

Knows no model: tokens are counted by a function it is given. A passage is always a stretch of its document as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from langchain_core.documents import Document

from rag.text import CJK
from rag.types import Tuning

TokenCounter = Callable[[list[str]], list[int]]
# A passage of one paragraph or two: shorter ones are found less often (bench.retrieval), longer ones cost a language
# model more than they tell it. Chinese and Japanese say as much in half the characters.
_CHARACTERS = Tuning().passage_size
_DENSE = re.compile(f"[{CJK}]")
_TORN = 0.5  # of a passage; what is repeated of a paragraph so that it stands in one piece
OVERLAP = 0.3  # of a passage, at most: so that what is said across a border is found in one piece

# Whatever a file holds, no more than this is under way at once (in characters): a stretch of text is split on its own,
# and what is taken for a sentence is neither so short that there are millions of them nor too long for a tokenizer.
_STRETCH = 200_000
_SHORTEST, _LONGEST = 12, 2_000
_COUNTED_AT_ONCE = 512  # of these

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
# After the marks that end a sentence, with what closes behind them; a Latin full stop needs white space after it.
# Not tried again within a run of full stops, which may be as long as the file.
_SENTENCE = re.compile(r"[。！？；…]+[”’」』）》]*|(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s)|\n")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|Fig|No|pp|cf|e\.g|i\.e|al|approx)|\b[A-Z])\.$")
_WORD = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class _Piece:
    """text[start:end] of a document, white space at its end included; `size` of a full passage, which is 1. `closes`:
    a paragraph ends with it."""

    start: int
    end: int
    size: float
    closes: bool


def _always(_: str) -> bool:
    return True


def split(
    documents: Iterable[Document],
    count_tokens: TokenCounter,
    max_tokens: int,
    reads: Callable[[str], bool] = _always,
    characters: int = _CHARACTERS,
) -> Iterator[Document]:
    """Passages of at most `characters` (half of it in Chinese), in order, each made when it is asked for; none spans
    two documents.

    None has more than `max_tokens`, where the model reads its language: `reads` tells. In a language it does not read,
    text is found by its words alone, however many tokens they would be.

    Metadata is that of the document (`page`, `heading`), `index`, which counts through all of them from 0, and
    `start_index`, the place in the text of the document.
    """
    measure = _Measure(count_tokens, max_tokens, reads, characters)
    index = 0
    for group in _groups(documents):
        texts = [document.page_content[start:end] for document, start, end in group]
        for number, start, end in _ranges(texts, measure):
            document, offset, _ = group[number]
            text = texts[number][start:end].lstrip()
            if text:
                place = {"index": index, "start_index": offset + end - len(text)}
                yield Document(text.rstrip(), metadata={**document.metadata, **place})
                index += 1


def _groups(documents: Iterable[Document]) -> Iterator[list[tuple[Document, int, int]]]:
    """(document, start, end) of stretches, as many together as fit; a document that does not is cut at a line."""
    group: list[tuple[Document, int, int]] = []
    room = _STRETCH
    for document in documents:
        text = document.page_content
        start = 0
        while start < len(text):
            end = min(len(text), start + _STRETCH)
            if end < len(text):
                end = max(text.rfind(white, start, end) + 1 for white in "\n ") or end
                end = end if end > start else start + _STRETCH
            if group and end - start > room:
                yield group
                group, room = [], _STRETCH
            group.append((document, start, end))
            room -= end - start
            start = end
    if group:
        yield group


class _Measure:
    """How much of a passage a text fills: the most there may be is 1."""

    def __init__(
        self, count_tokens: TokenCounter, max_tokens: int, reads: Callable[[str], bool], characters: int
    ) -> None:
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._reads = reads
        self._most = characters

    def __call__(self, texts: list[str]) -> list[float]:
        characters = [_characters(text) / self._most for text in texts]
        return list(map(max, characters, self.read(texts)))

    def read(self, texts: list[str]) -> list[float]:
        """By tokens alone; 0 for what the model does not read."""
        shares = [0.0] * len(texts)
        read = [at for at, text in enumerate(texts) if self._reads(text)]
        for start in range(0, len(read), _COUNTED_AT_ONCE):
            group = read[start : start + _COUNTED_AT_ONCE]
            for at, count in zip(group, self._count_tokens([texts[at] for at in group]), strict=True):
                shares[at] = count / self._max_tokens
        return shares


def _characters(text: str) -> int:
    """The length of `text`, twice where it is written in Chinese or Japanese characters."""
    return 2 * len(text) if len(_DENSE.findall(text)) > len(text) // 3 else len(text)


def _ranges(texts: Sequence[str], measure: _Measure) -> list[tuple[int, int, int]]:
    """(text, start, end) of the passages."""
    spans = [(at, *span) for at, text in enumerate(texts) for span in _sentences(text)]
    pieces: list[list[_Piece]] = [[] for _ in texts]
    for at, piece in _measured(texts, spans, measure):
        pieces[at].append(piece)
    ranges = [(at, start, end) for at, own in enumerate(pieces) for start, end in _packed(own)]
    return _within(texts, ranges, measure)


def _sentences(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, closes a paragraph) of each sentence; together they are all of `text`."""
    start = begin = 0
    for end in [*(match.end() for match in _PARAGRAPH.finditer(text)), len(text)]:
        stops = (match.end() for match in _SENTENCE.finditer(text, begin, end))
        for stop in [*(stop for stop in stops if not _ABBREVIATION.search(text, max(begin, stop - 8), stop)), end]:
            rest = start < stop == end and (end - begin >= _SHORTEST or end == len(text))
            if stop - start >= _SHORTEST or rest:
                borders = _word_borders(text, start, stop, -(-(stop - start) // _LONGEST))
                for left, right in pairwise(borders):
                    yield left, right, right == end
                start = stop
        begin = end


def _measured(
    texts: Sequence[str], spans: list[tuple[int, int, int, bool]], measure: _Measure
) -> Iterator[tuple[int, _Piece]]:
    """(document, piece) with its size, in order. What is larger than a passage is cut at words until nothing is."""
    sizes = measure([texts[at][start:end] for at, start, end, _ in spans])
    while any(size > 1 and end - start > 1 for size, (_, start, end, _) in zip(sizes, spans, strict=True)):
        cut: list[tuple[int, int, int, bool]] = []
        known: list[float | None] = []
        for size, (at, start, end, closes) in zip(sizes, spans, strict=True):
            if size <= 1 or end - start == 1:
                cut.append((at, start, end, closes))
                known.append(size)
                continue
            borders = _word_borders(texts[at], start, end, max(2, math.ceil(size)))
            for left, right in pairwise(borders):
                cut.append((at, left, right, closes and right == end))
                known.append(None)
        new = iter(measure([texts[a][s:e] for (a, s, e, _), size in zip(cut, known, strict=True) if size is None]))
        spans, sizes = cut, [next(new) if size is None else size for size in known]
    for size, (at, start, end, closes) in zip(sizes, spans, strict=True):
        yield at, _Piece(start, end, size, closes)


def _word_borders(text: str, start: int, end: int, parts: int) -> list[int]:
    """The borders of `parts` stretches of about the same length, after white space where there is some near."""
    parts = min(parts, end - start)
    length = (end - start) / parts
    borders = [start]
    for number in range(1, parts):
        ideal = start + round(number * length)
        spaces = [match.end() for match in _WORD.finditer(text, max(borders[-1] + 1, int(ideal - length / 4)), ideal)]
        border = spaces[-1] if spaces else ideal
        if borders[-1] < border < end:
            borders.append(border)
    return [*borders, end]


def _packed(pieces: list[_Piece]) -> Iterator[tuple[int, int]]:
    """(start, end) of passages: as many pieces as fit."""
    first = 0
    while first < len(pieces):
        size = 0.0
        last = first
        while last < len(pieces) and (last == first or size + pieces[last].size <= 1):
            size += pieces[last].size
            last += 1
        yield pieces[first].start, pieces[last - 1].end
        if last == len(pieces):
            return
        first = _next_first(pieces, first, last)


def _next_first(pieces: list[_Piece], first: int, last: int) -> int:
    """Where the passage after pieces[first:last] begins. A paragraph torn by its end is in the next one from its
    beginning, unless most of a passage would be repeated: then only its last sentences are."""
    paragraph = last
    while paragraph > first and not pieces[paragraph - 1].closes:
        paragraph -= 1
    if paragraph > first and sum(piece.size for piece in pieces[paragraph:last]) <= _TORN:
        return paragraph
    following = last
    again = 0.0
    while following - 1 > paragraph:
        again += pieces[following - 1].size
        if again > OVERLAP or again + pieces[last].size > 1:
            break
        following -= 1
    return following


def _within(texts: Sequence[str], ranges: list[tuple[int, int, int]], measure: _Measure) -> list[tuple[int, int, int]]:
    """The ranges, those of too many tokens cut: some tokenizers make more of a whole than of its parts."""
    sizes = measure.read([texts[at][start:end].strip() for at, start, end in ranges])
    while any(size > 1 and end - start > 1 for size, (_, start, end) in zip(sizes, ranges, strict=True)):
        cut = []
        for size, (at, start, end) in zip(sizes, ranges, strict=True):
            if size <= 1 or end - start == 1:
                cut.append((at, start, end))
            else:
                borders = _word_borders(texts[at], start, end, 2)
                cut += [(at, left, right) for left, right in pairwise(borders)]
        ranges = cut
        sizes = measure.read([texts[at][start:end].strip() for at, start, end in ranges])
    return ranges
