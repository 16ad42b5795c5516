"""The vectors of one knowledge base in memory, where the nearest are found. Derived from the store, never saved."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag.store import Vectors


class VectorIndex:
    """FAISS by inner product over normalised rows, exact. `version` is that of the knowledge base it was made from.

    Adds and searches take turns: FAISS allows searches side by side, but none while rows come or go.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._index: Any = None  # the first rows say how wide it is

    def add(self, ids: Sequence[int], rows: Vectors) -> None:
        import faiss  # tens of MB, and only those who search need it

        with self._lock:
            if self._index is None:
                self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(rows.shape[1]))
            self._index.add_with_ids(np.ascontiguousarray(rows), np.asarray(ids, np.int64))

    def remove(self, ids: Sequence[int]) -> None:
        with self._lock:
            if self._index is not None:
                self._index.remove_ids(np.asarray(ids, np.int64))

    def nearest(self, vector: Vectors, limit: int) -> list[int]:
        """Passage ids, nearest first; fewer than `limit` when there are fewer rows."""
        with self._lock:
            if self._index is None:
                return []
            _, ids = self._index.search(np.ascontiguousarray(vector), limit)
        return [int(i) for i in ids[0] if i >= 0]
