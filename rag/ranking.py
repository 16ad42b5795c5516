"""From candidates to scored hits: how keywords and vectors together say 0..1. Pure; knows no store and no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.scripts import HAN, fluency, scripts
from rag.words import STOP_WORDS

THRESHOLD = 0.33  # below it a passage is not used

# BM25's saturation and length normalisation; passages are of similar length by construction.
_K1 = 0.9
_B = 0.4
# Chinese is also compared by character pairs and characters: the same name is not always cut into the same words.
_PAIRS = 0.5
_CHARACTERS = 0.3
_DENSE = 0.5

_HAN_RUN = re.compile(f"[{HAN}]+")


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


@dataclass(frozen=True)
class Scored:
    """`score` is 0..1, higher is better."""

    score: float
    candidate: Candidate


def rank(query: str, query_words: Sequence[str], found: Candidates, spoken: frozenset[str]) -> list[Scored]:
    """The candidates with their scores, best first. `spoken` are the scripts that the embedding model knows."""
    keywords = keyword_scores(query, query_words, found)
    speaks = fluency(scripts(query), spoken) > 0.5
    scored = []
    for candidate, keyword in zip(found.passages, keywords, strict=True):
        score = keyword
        # Vectors of a language that the model was not made for say nothing: they would only blur the keywords.
        if speaks and candidate.cosine is not None and fluency(scripts(candidate.text), spoken) > 0.5:
            score = (1 - _DENSE) * keyword + _DENSE * max(0.0, candidate.cosine)
        scored.append((score, candidate))
    scored.sort(key=lambda pair: -pair[0])
    return [Scored(min(1.0, score), candidate) for score, candidate in scored]


def keyword_scores(query: str, query_words: Sequence[str], found: Candidates) -> list[float]:
    """How much of the question's words each candidate has, the rare words counting more: BM25 over the score of a
    passage that has each word once, so 0 is none, about 1 all of them. Words that tell nothing do not count."""
    telling = [word for word in query_words if word not in STOP_WORDS]
    rarity = {word: _rarity(found.total, found.frequency.get(word, 0)) for word in telling}
    scores = _bm25(rarity, [candidate.words for candidate in found.passages])
    if not telling or scripts(query).get("han", 0.0) < 0.5:
        return scores
    for size, share in ((2, _PAIRS), (1, _CHARACTERS)):
        grams = [_han_grams(candidate.text, size) for candidate in found.passages]
        asked = set(_han_grams(query, size))
        # How rare a pair is among the candidates is as good a measure as in the whole base, and needs no index.
        frequency = Counter(gram for passage in grams for gram in asked.intersection(passage))
        more = _bm25({gram: _rarity(len(grams), frequency[gram]) for gram in asked}, grams)
        scores = [score + share * extra for score, extra in zip(scores, more, strict=True)]
    return [score / (1 + _PAIRS + _CHARACTERS) for score in scores]


def _bm25(rarity: Mapping[str, float], passages: Sequence[Sequence[str]]) -> list[float]:
    weight = sum(rarity.values())
    if not weight or not passages:
        return [0.0] * len(passages)
    mean = max(1.0, sum(map(len, passages)) / len(passages))
    scores = []
    for passage in passages:
        counts = Counter(word for word in passage if word in rarity)
        long = _K1 * (1 - _B + _B * len(passage) / mean)
        scores.append(sum(rarity[word] * n * (_K1 + 1) / (n + long) for word, n in counts.items()) / weight)
    return scores


def _rarity(total: int, frequency: int) -> float:
    """The weight of a word: large when few passages have it; a word that none has weighs like one that a single has."""
    frequency = min(total, max(1, frequency))
    return math.log(1 + (total - frequency + 0.5) / (frequency + 0.5)) + 0.01


def _han_grams(text: str, size: int) -> list[str]:
    return [run[i : i + size] for run in _HAN_RUN.findall(text) for i in range(len(run) - size + 1)]
