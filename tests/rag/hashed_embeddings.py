"""An embedding model of a few lines, for tests that need vectors at once and no meaning in them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from rag.embeddings import EmbeddingModel, Vectors
from rag.words import words


class HashedEmbeddings:
    """Each word has its own place among the `dimension` numbers: texts with the same words are near."""

    def __init__(self, name: str = "hashed", dimension: int = 64) -> None:
        self.name = name
        self.description = EmbeddingModel(dimension, max_tokens=250, scripts=frozenset({"latin"}))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(words(text)) for text in texts]

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        rows = np.full((len(texts), self.description.dimension), 1e-6, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in words(text):
                row[zlib.crc32(word.encode()) % self.description.dimension] += 1
        normalised: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return normalised

    def query_vector(self, text: str) -> Vectors:
        return self.passage_vectors([text])

    def close(self) -> None:
        return None
