"""Cuts documents into passages for search: by tokens of the embedding model, at the best place there is nearby.

Knows no model: tokens are counted by a function it is given. A passage is always a stretch of its document as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from langchain_core.documents import Document

TokenCounter = Callable[[list[str]], list[int]]
PASSAGE_TOKENS = 200
OVERLAP = 0.15  # of a passage, at most: so that what is said across a border is found in one piece

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
    """text[start:end] of a document, white space at its end included. `closes`: a paragraph ends with it."""

    start: int
    end: int
    tokens: int
    closes: bool


def split(documents: Sequence[Document], count_tokens: TokenCounter, max_tokens: int) -> list[Document]:
    """Passages of about `PASSAGE_TOKENS`, never more than `max_tokens`, in order; none spans two documents.

    Metadata is that of the document (`page`, `heading`), `index`, which counts through all of them from 0, and
    `start_index`, the place in the text of the document.
    """
    passages: list[Document] = []
    for group in _groups([document.page_content for document in documents]):
        texts = [documents[at].page_content[start:end] for at, start, end in group]
        for number, start, end in _ranges(texts, count_tokens, max_tokens):
            at, offset, _ = group[number]
            text = texts[number][start:end].lstrip()
            if text:
                place = {"index": len(passages), "start_index": offset + end - len(text)}
                passages.append(Document(text.rstrip(), metadata={**documents[at].metadata, **place}))
    return passages


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, int, int]]]:
    """(document, start, end) of stretches, as many together as fit; a document that does not is cut at a line."""
    group: list[tuple[int, int, int]] = []
    room = _STRETCH
    for at, text in enumerate(texts):
        start = 0
        while start < len(text):
            end = min(len(text), start + _STRETCH)
            if end < len(text):
                end = max(text.rfind(white, start, end) + 1 for white in "\n ") or end
                end = end if end > start else start + _STRETCH
            if group and end - start > room:
                yield group
                group, room = [], _STRETCH
            group.append((at, start, end))
            room -= end - start
            start = end
    if group:
        yield group


def _ranges(texts: Sequence[str], count_tokens: TokenCounter, max_tokens: int) -> list[tuple[int, int, int]]:
    """(text, start, end) of the passages."""
    target = max(1, min(PASSAGE_TOKENS, max_tokens))
    spans = [(at, *span) for at, text in enumerate(texts) for span in _sentences(text)]
    pieces: list[list[_Piece]] = [[] for _ in texts]
    for at, piece in _measured(texts, spans, count_tokens, target):
        pieces[at].append(piece)
    ranges = [(at, start, end) for at, own in enumerate(pieces) for start, end in _packed(own, target)]
    return _within(texts, ranges, count_tokens, max_tokens)


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
    texts: Sequence[str], spans: list[tuple[int, int, int, bool]], count_tokens: TokenCounter, target: int
) -> Iterator[tuple[int, _Piece]]:
    """(document, piece) with its tokens, in order. What is over the target is cut at words until nothing is."""
    counts = _count([texts[at][start:end] for at, start, end, _ in spans], count_tokens)
    while any(count > target and end - start > 1 for count, (_, start, end, _) in zip(counts, spans, strict=True)):
        cut: list[tuple[int, int, int, bool]] = []
        known: list[int | None] = []
        for count, (at, start, end, closes) in zip(counts, spans, strict=True):
            if count <= target or end - start == 1:
                cut.append((at, start, end, closes))
                known.append(count)
                continue
            borders = _word_borders(texts[at], start, end, max(2, -(-count // target)))
            for left, right in pairwise(borders):
                cut.append((at, left, right, closes and right == end))
                known.append(None)
        new = iter(
            _count([texts[a][s:e] for (a, s, e, _), n in zip(cut, known, strict=True) if n is None], count_tokens)
        )
        spans, counts = cut, [next(new) if number is None else number for number in known]
    for count, (at, start, end, closes) in zip(counts, spans, strict=True):
        yield at, _Piece(start, end, count, closes)


def _count(texts: list[str], count_tokens: TokenCounter) -> list[int]:
    counts: list[int] = []
    for start in range(0, len(texts), _COUNTED_AT_ONCE):
        counts += count_tokens(texts[start : start + _COUNTED_AT_ONCE])
    return counts


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


def _packed(pieces: list[_Piece], target: int) -> Iterator[tuple[int, int]]:
    """(start, end) of passages: as many pieces as fit, rather ended with a paragraph than within one."""
    first = 0
    while first < len(pieces):
        tokens = 0
        last = first
        while last < len(pieces) and (last == first or tokens + pieces[last].tokens <= target):
            tokens += pieces[last].tokens
            last += 1
        if last < len(pieces):
            last = _end_of_paragraph(pieces, first, last, target)
        yield pieces[first].start, pieces[last - 1].end
        if last == len(pieces):
            return
        # The next passage begins with the end of this one, unless a new paragraph begins with it.
        again = 0
        following = last
        while following - 1 > first and not pieces[following - 1].closes:
            again += pieces[following - 1].tokens
            if again > OVERLAP * target or again + pieces[last].tokens > target:
                break
            following -= 1
        first = following


def _end_of_paragraph(pieces: list[_Piece], first: int, last: int, target: int) -> int:
    """The index after the last paragraph that ends before `last`, where that leaves at least half a passage."""
    tokens = 0
    best = last
    for at in range(first, last):
        tokens += pieces[at].tokens
        if pieces[at].closes and tokens >= 0.5 * target:
            best = at + 1
    return best


def _within(
    texts: Sequence[str], ranges: list[tuple[int, int, int]], count_tokens: TokenCounter, max_tokens: int
) -> list[tuple[int, int, int]]:
    """The ranges, those over `max_tokens` cut: some tokenizers make more of a whole than of its parts."""
    counts = _count([texts[at][start:end].strip() for at, start, end in ranges], count_tokens)
    while any(count > max_tokens and end - start > 1 for count, (_, start, end) in zip(counts, ranges, strict=True)):
        cut = []
        for count, (at, start, end) in zip(counts, ranges, strict=True):
            if count <= max_tokens or end - start == 1:
                cut.append((at, start, end))
            else:
                borders = _word_borders(texts[at], start, end, 2)
                cut += [(at, left, right) for left, right in pairwise(borders)]
        ranges = cut
        counts = _count([texts[at][start:end].strip() for at, start, end in ranges], count_tokens)
    return ranges
