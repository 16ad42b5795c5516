"""Finds the passages of a knowledge base that answer a question: keywords and vectors, one score. Makes no prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.errors import EngineFailed, ModelUnusable
from rag.ranking import rank
from rag.scripts import reads
from rag.types import Hit
from rag.words import question_words

if TYPE_CHECKING:
    from rag.embeddings import PassageEmbeddings
    from rag.store import Store

_CANDIDATES = 50  # from each side


class Retriever:
    """Search over one store with one embedding model. Blocks; any number of threads may ask at once."""

    def __init__(self, store: Store, embeddings: PassageEmbeddings) -> None:
        self._store = store
        self._embeddings = embeddings

    def search(self, base: str, query: str, top_k: int) -> list[Hit]:
        """At most `top_k` hits, best first, none below 0. Raises NotFound for an unknown base."""
        spoken: frozenset[str] = frozenset()
        vector = None
        try:
            spoken = self._embeddings.description.scripts
            if reads(query, spoken):
                vector = self._embeddings.query_vector(query)
        except (EngineFailed, ModelUnusable):
            # Without its embedding model a knowledge base still answers by keywords.
            pass
        query_words = question_words(query)
        found = self._store.candidates(base, query_words, vector, max(_CANDIDATES, top_k))
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
            for scored in rank(query, query_words, found, spoken)[:top_k]
            for candidate in [scored.candidate]
        ]
