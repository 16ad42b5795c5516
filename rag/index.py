"""The vectors of one knowledge base in memory, where the nearest are found. Derived from the store at any time.

Exact while small; from `LARGE` rows on approximate: rows in clusters, a byte for each number, the clusters nearest to
a question searched. Which of the candidates are best is decided elsewhere, from the exact vectors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.store import Vectors

LARGE = 20_000
_SAMPLE = 64  # rows of each cluster that it is learnt from
_BLOCK = 1 << 20

Batches = Callable[[], Iterable[tuple[list[int], Vectors]]]


class VectorIndex:
    """FAISS by inner product over normalised rows. `version` is that of the knowledge base it was made from.

    Adds and searches take turns: FAISS allows searches side by side, but none while rows come or go.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._index: Any = None  # the first rows say how wide it is

    @classmethod
    def build(cls, version: int, rows: int, batches: Batches) -> VectorIndex:
        """From all rows of a base; goes through `batches` twice when they are many."""
        index = cls(version)
        if rows >= LARGE:
            index._index = _learnt(rows, batches)
        for ids, vectors in batches():
            index.add(ids, vectors)
        return index

    @property
    def large(self) -> bool:
        """Whether it is approximate, and worth being kept on disk."""
        return self._index is not None and hasattr(self._index, "nprobe")

    def add(self, ids: Sequence[int], rows: Vectors) -> None:
        import faiss  # tens of MB, and only those who search need it

        with self._lock:
            if self._index is None:
                self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(rows.shape[1]))
            elif not self.large and self._index.ntotal + len(ids) >= LARGE:
                self._index = _grown(self._index)
            self._index.add_with_ids(np.ascontiguousarray(rows), np.asarray(ids, np.int64))

    def remove(self, ids: Sequence[int]) -> None:
        with self._lock:
            if self._index is not None:
                self._index.remove_ids(np.asarray(ids, np.int64))

    def nearest(self, vector: Vectors, limit: int) -> list[int]:
        """Passage ids, nearest first; fewer than `limit` when there are fewer rows."""
        import faiss

        faiss.omp_set_num_threads(1)  # of this thread: threads that wait for each other cost more than they bring
        with self._lock:
            if self._index is None:
                return []
            _, ids = self._index.search(np.ascontiguousarray(vector), limit)
        return [int(i) for i in ids[0] if i >= 0]

    def save(self, path: Path) -> None:
        """Writes it beside `path` and puts it there in one step, with a checksum. A failed write leaves no trace."""
        import faiss

        part = path.with_suffix(".part")
        try:
            with self._lock:
                head = {"version": self.version, "rows": self._index.ntotal}
                faiss.write_index(self._index, str(part))
            head["digest"] = _digest(part)
            with part.open("ab") as file:
                line = json.dumps(head).encode()
                file.write(line + len(line).to_bytes(4, "little"))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def is_saved(cls, path: Path, version: int) -> bool:
        """Whether this version was saved; load looks closer."""
        try:
            return bool(_head(path)[0]["version"] == version)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @classmethod
    def load(cls, path: Path, version: int) -> VectorIndex | None:
        """What was saved; None when there is nothing, when it is of another version, or damaged."""
        import faiss

        try:
            head, size = _head(path)
            if head["version"] != version or head["digest"] != _digest(path, size):
                return None
            index = cls(version)
            index._index = faiss.read_index(str(path))  # reads what it needs; the head comes behind it
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None
        return index if index._index.ntotal == head["rows"] else None


def _lists(rows: int) -> int:
    """How many clusters there are for so many rows."""
    return max(1, int(2 * math.sqrt(rows)))


def _clusters(dimension: int, rows: int) -> Any:
    """An empty approximate index for about this many rows."""
    import faiss

    lists = _lists(rows)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension), dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    # What a search goes through grows with rows ** 0.75.
    index.nprobe = max(1, int(4 * math.sqrt(lists)))
    return index


def _learnt(rows: int, batches: Batches) -> Any:
    """Clusters learnt from rows taken evenly from all of them."""
    step = max(1, rows // (_SAMPLE * _lists(rows)))
    position = 0
    sample = []
    for _, vectors in batches():
        sample.append(vectors[-position % step :: step].copy())
        position += len(vectors)
    training = np.concatenate(sample)
    index = _clusters(training.shape[1], rows)
    index.train(training)
    return index


def _grown(flat: Any) -> Any:
    """An approximate index with the rows of an exact one; wide enough for four times as many."""
    import faiss

    ids = faiss.vector_to_array(flat.id_map)
    rows = flat.index.reconstruct_n(0, flat.ntotal)
    index = _clusters(rows.shape[1], 4 * len(rows))
    index.train(rows)
    index.add_with_ids(rows, ids)
    return index


def _head(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON at the end of a saved index, and the size of what is before it."""
    with path.open("rb") as file:
        end = file.seek(-4, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        size = file.seek(end - length)
        head: dict[str, Any] = json.loads(file.read(length))
    return head, size


def _digest(path: Path, size: int | None = None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
