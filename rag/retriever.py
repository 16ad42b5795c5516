"""Finds the passages of a knowledge base that answer a question: keywords and vectors, one score. Makes no prompt."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from backends.errors import EngineFailed, ModelUnusable
from rag.errors import ModelChanged
from rag.ranking import Candidates, diverse, rank
from rag.scripts import reads
from rag.types import Hit
from rag.words import question_words

if TYPE_CHECKING:
    from rag.embedding_models import EmbeddingModels
    from rag.reranker import Reranker
    from rag.store import Store

_CANDIDATES = 50  # from each side
_AT_ONCE = 3  # searches that compute: more would only wait for each other, and keep the interpreter from all others


class Retriever:
    """Search over one store with the embedding model in service. Blocks; any number of threads may ask."""

    def __init__(self, store: Store, models: EmbeddingModels, reranker: Reranker | None = None) -> None:
        self._store = store
        self._models = models
        self.reranker = reranker
        self._computing = threading.Semaphore(_AT_ONCE)

    def search(self, base: str, query: str, top_k: int) -> list[Hit]:
        """At most `top_k` hits, best first, none below 0, as few as can be of the same text. Raises NotFound for an
        unknown base."""
        return sorted(self.chosen(base, query, top_k), key=lambda hit: -hit.score)

    def chosen(self, base: str, query: str, top_k: int) -> list[Hit]:
        """The same in the order of choosing: the first k of them are the hits of a search for k."""
        query_words = question_words(query)
        found, spoken = self._candidates(base, query, query_words, max(_CANDIDATES, top_k))
        with self._computing:
            ranked = rank(query, query_words, found, spoken)
        if self.reranker:
            ranked = self.reranker.reordered(query, ranked)
        return [
            Hit(
                passage_id=str(candidate.passage_id),
                text=candidate.text,
                score=round(scored.score, 4),
                file=candidate.file,
                file_id=candidate.file_id,
                page=candidate.page,
                heading=candidate.heading,
            )
            for scored in diverse(ranked, top_k)
            for candidate in [scored.candidate]
        ]

    def _candidates(
        self, base: str, query: str, query_words: list[str], limit: int
    ) -> tuple[Candidates, frozenset[str]]:
        """What the store has for a question, and the scripts of the model that was asked; by keywords alone while
        there is none."""
        while True:
            spoken: frozenset[str] = frozenset()
            vector, name = None, ""
            try:
                with self._models.serving() as model:
                    spoken, name = model.description.scripts, model.name
                    if reads(query, spoken):
                        vector = model.query_vector(query)
            except (EngineFailed, ModelUnusable):
                pass
            try:
                with self._computing:
                    return self._store.candidates(base, query_words, vector, limit, name), spoken
            except ModelChanged:  # just now: the question is asked of the new one
                self._models.refresh()
