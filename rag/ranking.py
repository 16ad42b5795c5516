"""From candidates to scored hits: how keywords and vectors together say 0..1. Pure; knows no store and no model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rag.scripts import HAN, reads, scripts
from rag.words import STOP_WORDS, is_small_talk

THRESHOLD = 0.35  # below it a passage is not used

# BM25's saturation and length normalisation; passages are of similar length by construction.
_K1 = 0.9
_B = 0.4
# Chinese is also compared by characters: near in meaning are often words that share one.
_CHARACTERS = 0.2
_DENSE = 0.6

_RELEVANCE = 0.8  # what counts of a score when hits are chosen; the rest is how little of it is said already

_HAN_RUN = re.compile(f"[{HAN}]+")


@dataclass(frozen=True)
class Candidate:
    """A passage that may answer. `words` are those of rag.words, joined by spaces; `cosine` is None when there is no
    query vector."""

    passage_id: int
    text: str
    words: str
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
    """The candidates with their scores, best first. `spoken` are the scripts that the embedding model knows.

    Small talk asks for nothing: every passage scores 0, also one that is about greetings."""
    if is_small_talk(query):
        return [Scored(0.0, candidate) for candidate in found.passages]
    keywords = keyword_scores(query, query_words, found)
    speaks = reads(query, spoken)
    scored = []
    for candidate, keyword in zip(found.passages, keywords, strict=True):
        score = keyword
        # Vectors of a language that the model was not made for say nothing: they would only blur the keywords.
        if speaks and candidate.cosine is not None and reads(candidate.text, spoken):
            score = (1 - _DENSE) * keyword + _DENSE * max(0.0, candidate.cosine)
        scored.append((score, candidate))
    scored.sort(key=lambda pair: -pair[0])
    return [Scored(min(1.0, score), candidate) for score, candidate in scored]


def reordered(ranked: Sequence[Scored], relevance: Sequence[float]) -> list[Scored]:
    """The first of `ranked` in the order of `relevance`, which is of whatever scale; the others behind them.

    The scores stay where they are: the best passage now has the score that the best one had. So the threshold means
    the same with every reranker and without one, whether something here answers the question; what does, it says."""
    order = sorted(range(len(relevance)), key=lambda at: -relevance[at])
    first = [Scored(place.score, ranked[at].candidate) for place, at in zip(ranked, order, strict=False)]
    return [*first, *ranked[len(first) :]]


def diverse(ranked: Sequence[Scored], count: int) -> list[Scored]:
    """The `count` of `ranked` that say most together, in the order in which they are chosen, so that the first of them
    are those of a smaller count: the same text in two files takes one place, unless there is nothing else to show.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), where two passages are as similar as the share of
    word pairs that they have in common (resemblance of shingles: Broder, 1997)."""
    chosen: list[int] = []
    said: dict[int, float] = {}  # how similar a passage is to the most similar one chosen; of those looked at
    compared: dict[int, int] = {}  # with how many of those chosen
    shingles: dict[int, frozenset[tuple[str, str]]] = {}

    def pairs(at: int) -> frozenset[tuple[str, str]]:
        if at not in shingles:
            shingles[at] = frozenset(pairwise(ranked[at].candidate.words.split()))
        return shingles[at]

    left = list(range(len(ranked)))
    while left and len(chosen) < count:
        best, most = left[0], -math.inf
        for at in left:
            if _RELEVANCE * ranked[at].score <= most:
                break  # the others are worse even if they repeat nothing
            fresh = chosen[compared.get(at, 0) :]
            said[at] = max([said.get(at, 0.0), *(_resemblance(pairs(at), pairs(other)) for other in fresh)])
            compared[at] = len(chosen)
            worth = _RELEVANCE * ranked[at].score - (1 - _RELEVANCE) * said[at]
            if worth > most:
                best, most = at, worth
        chosen.append(best)
        left.remove(best)
    return [ranked[at] for at in chosen]


def _resemblance(one: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> float:
    return len(one & other) / (len(one | other) or 1)


def keyword_scores(query: str, query_words: Sequence[str], found: Candidates) -> list[float]:
    """How much of the question's words each candidate has, the rare words counting more: BM25 over the score of a
    passage that has each word once, so 0 is none, about 1 all of them."""
    rarity = {word: _rarity(found.total, found.frequency.get(word, 0)) for word in query_words}
    words = [candidate.words for candidate in found.passages]
    scores = _bm25(list(rarity.values()), [1 + text.count(" ") for text in words], _counts(rarity, words))
    if not query_words or scripts(query).get("han", 0.0) < 0.5:
        return scores
    passages = ["".join(_HAN_RUN.findall(candidate.text)) for candidate in found.passages]
    asked = set("".join(run for word in query_words for run in _HAN_RUN.findall(word))) - STOP_WORDS
    counts = [[passage.count(character) for character in asked] for passage in passages]
    # How rare a character is among the candidates is as good a measure as in the whole base, and needs no index.
    weights = [_rarity(len(passages), sum(map(bool, among))) for among in zip(*counts, strict=True)]
    more = _bm25(weights, list(map(len, passages)), counts)
    return [(score + _CHARACTERS * extra) / (1 + _CHARACTERS) for score, extra in zip(scores, more, strict=True)]


def _counts(asked: Iterable[str], passages: Sequence[str]) -> list[list[int]]:
    """How often each word is in each passage: looked for in the text, which is much faster than cutting it."""
    sought = [f" {word} " for word in asked]
    # Each word gets spaces of its own, so that the same one twice in a row counts twice.
    spaced = (f" {passage.replace(' ', '  ')} " for passage in passages)
    return [[text.count(word) if word in text else 0 for word in sought] for text in spaced]


def _bm25(rarity: Sequence[float], lengths: Sequence[int], counts: Sequence[Sequence[int]]) -> list[float]:
    """`counts` has a row for each passage, with how often each word is in it."""
    weight = sum(rarity)
    if not weight or not lengths:
        return [0.0] * len(lengths)
    mean = max(1.0, sum(lengths) / len(lengths))
    scores = []
    for length, row in zip(lengths, counts, strict=True):
        long = _K1 * (1 - _B + _B * length / mean)
        scores.append(sum(rare * n * (_K1 + 1) / (n + long) for rare, n in zip(rarity, row, strict=True) if n) / weight)
    return scores


def _rarity(total: int, frequency: int) -> float:
    """The weight of a word: large when few passages have it; a word that none has weighs like one that a single has."""
    frequency = min(total, max(1, frequency))
    return math.log(1 + (total - frequency + 0.5) / (frequency + 0.5)) + 0.01
