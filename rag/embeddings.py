"""LangChain's Embeddings by a sentence-transformers model in a process of its own. Knows no store.

The process starts with the first question or passage, comes back when it was lost, and ends with the app.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from langchain_core.embeddings import Embeddings

from rag.model_name import BUNDLED, model_name
from rag.model_process import ModelProcess, Role

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_BATCH = 16  # passages in one request: what a question may have to wait for
_ROLE = Role(
    "rag.embedding_worker",
    "embedding model",
    "Name a folder or hub id of a sentence-transformers model with --embedding-model, or leave it out.",
)


@dataclass(frozen=True)
class EmbeddingModel:
    """`max_tokens` is the longest passage that it reads whole, without special tokens; `scripts` are those its
    vocabulary was made for (rag.scripts)."""

    dimension: int
    max_tokens: int
    scripts: frozenset[str]


class PassageEmbeddings(Protocol):
    """What rag asks of an embedding model. Every method blocks and may be called from any thread."""

    @property
    def name(self) -> str:
        """Identifies the model and its version; vectors of different names must not be compared."""
        ...

    @property
    def description(self) -> EmbeddingModel: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones and not truncated."""
        ...

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        """One normalised float32 row for each passage."""
        ...

    def query_vector(self, text: str) -> Vectors:
        """One normalised float32 row, shape (1, dimension)."""
        ...

    def close(self) -> None: ...


class WorkerEmbeddings(Embeddings):
    """Embeddings of the bundled model, of a local folder, or of a hub id (the one case that may use the network).

    Every method blocks and may be called from any thread. All raise ModelUnusable when the model cannot be loaded and
    EngineFailed when the worker process was lost while it worked (the next call starts another).
    """

    def __init__(self, model: str = "", log_file: Path | None = None, threads: int | None = None) -> None:
        self._model = "" if model == BUNDLED else model
        self._name = ""
        self._process = ModelProcess(_ROLE, self._model, log_file, threads)

    @property
    def name(self) -> str:
        """Identifies the model and its version; vectors of different names must not be compared. "" for a hub id that
        was never loaded on this machine."""
        if not self._name:
            self._name = model_name(self._model)
        return self._name

    @property
    def description(self) -> EmbeddingModel:
        said = self._process.introduction()
        return EmbeddingModel(said["dimension"], said["max_tokens"], frozenset(said["scripts"]))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones and not truncated."""
        counts: list[int] = self._process.ask("count", texts)
        return counts

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        """One normalised float32 row for each passage. Long and short ones are put in batches of their like."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        rows = np.empty((len(texts), self.description.dimension), np.float32)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            rows[batch] = self._process.ask("passage", [texts[i] for i in batch])
        return rows

    def query_vector(self, text: str) -> Vectors:
        """One normalised float32 row, shape (1, dimension); overtakes passages."""
        vector: Vectors = self._process.ask("query", [text])
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.passage_vectors(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        row: list[float] = self.query_vector(text)[0].tolist()
        return row

    def close(self) -> None:
        """Ends the worker process; whoever still waits for it gets EngineFailed."""
        self._process.close()
