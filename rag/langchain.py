"""A knowledge base as LangChain's VectorStore and BaseRetriever, for chains of one's own. Read-only.

Its search is Quartet's: keywords and vectors, one score from 0 to 1, higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from rag.types import Hit

if TYPE_CHECKING:
    from rag.embedding_models import EmbeddingModels
    from rag.retriever import Retriever


class _InService(Embeddings):
    """Whichever model is in service when it is asked."""

    def __init__(self, models: EmbeddingModels) -> None:
        self._models = models

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        with self._models.serving() as model:
            return model.passage_vectors(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        with self._models.serving() as model:
            row: list[float] = model.query_vector(text)[0].tolist()
        return row


class KnowledgeBaseStore(VectorStore):
    """The documents found carry `file`, `file_id`, `page`, `heading`, `passage_id` and `score` in their metadata."""

    def __init__(self, base: str, retriever: Retriever, models: EmbeddingModels) -> None:
        self._base = base
        self._retriever = retriever
        self._embeddings = _InService(models)

    @property
    def embeddings(self) -> Embeddings:
        return self._embeddings

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Not offered: a knowledge base holds files, each with its state. Use KnowledgeService.add_file."""
        raise NotImplementedError("a knowledge base holds files: add them with KnowledgeService.add_file")

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        return [(_document(hit), hit.score) for hit in self._retriever.search(self._base, query, k)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: score

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> KnowledgeBaseStore:
        """Not offered: a knowledge base lives in a data folder. Use KnowledgeService.create and vector_store."""
        raise NotImplementedError("make the knowledge base with KnowledgeService.create, then ask for its vector_store")


class KnowledgeBaseRetriever(BaseRetriever):
    """The hits of one knowledge base that score at least `threshold`, best first, as LangChain documents."""

    base: str
    find: Callable[[str, str, int], list[Hit]]
    top_k: int = 4
    threshold: float = 0.0

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        hits = self.find(self.base, query, self.top_k)
        return [_document(hit) for hit in hits if hit.score >= self.threshold]


def _document(hit: Hit) -> Document:
    metadata = {
        "file": hit.file,
        "file_id": hit.file_id,
        "page": hit.page,
        "heading": hit.heading,
        "passage_id": hit.passage_id,
        "score": hit.score,
    }
    return Document(hit.text, id=hit.passage_id, metadata=metadata)
