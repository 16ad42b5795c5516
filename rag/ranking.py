"""From candidates to scored hits: how keywords and vectors together say 0..1. Pure; knows no store and no model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.scripts import fluency, scripts

THRESHOLD = 0.3  # below it a passage is not used

_K1 = 1.2
_B = 0.75


@dataclass(frozen=True)
class Candidate:
    """A passage that may answer. `cosine` is None when there is no query vector."""

    passage_id: int
    text: str
    words: tuple[str, ...]
    cosine: float | None
    file: str
    file_id: str
    page: int | None
    heading: str


@dataclass(frozen=True)
class Candidates:
    """What a search brings up, unranked, and the figures that ranking needs: how many passages can be found in the
    base, and in how many of them each word of the query is (words that are in none are left out)."""

    passages: Sequence[Candidate]
    total: int
    frequency: Mapping[str, int]


def rank(
    query: str, query_words: Sequence[str], found: Candidates, spoken: frozenset[str]
) -> list[tuple[float, Candidate]]:
    """The candidates with their scores, best first. `spoken` are the scripts that the embedding model knows."""
    scored = [
        (fused(keyword, dense), candidate) for candidate, keyword, dense in parts(query, query_words, found, spoken)
    ]
    return sorted(scored, key=lambda pair: -pair[0])


def parts(
    query: str, query_words: Sequence[str], found: Candidates, spoken: frozenset[str]
) -> list[tuple[Candidate, float, float | None]]:
    """Each candidate's keyword score 0..1 and its dense score 0..1, None where the model does not speak the language
    of the question or of the passage."""
    rarity = {word: _rarity(found.total, found.frequency.get(word, 0)) for word in query_words}
    weight = sum(rarity.values())
    mean = sum(len(c.words) for c in found.passages) / max(1, len(found.passages))
    speaks_query = fluency(scripts(query), spoken)
    result = []
    for candidate in found.passages:
        counts = Counter(word for word in candidate.words if word in rarity)
        long = _K1 * (1 - _B + _B * len(candidate.words) / max(1.0, mean))
        matched = sum(rarity[word] * min(1.0, n * (_K1 + 1) / (n + long)) for word, n in counts.items())
        dense = None
        if candidate.cosine is not None and min(speaks_query, fluency(scripts(candidate.text), spoken)) > 0.5:
            dense = max(0.0, candidate.cosine)
        result.append((candidate, matched / weight if weight else 0.0, dense))
    return result


def fused(keyword: float, dense: float | None) -> float:
    """One score 0..1."""
    return keyword if dense is None else 0.5 * keyword + 0.5 * dense


def _rarity(total: int, frequency: int) -> float:
    """The weight of a word: large when few passages have it; a word that none has weighs like one that a single has."""
    frequency = max(1, frequency)
    return math.log(1 + (total - frequency + 0.5) / (frequency + 0.5)) + 0.01
