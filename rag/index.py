"""The vectors of one knowledge base in memory, where the nearest are found. Derived from the store at any time.

Exact while small; from `LARGE` rows on approximate: rows in clusters, a byte for each number, the clusters nearest to
a question searched. The clusters are learnt from the rows; what came since may be about something else and is compared
exactly, until there is so much of it that they are learnt anew. Which of the candidates are best is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from rag.store import Vectors

LARGE = 20_000
_SAMPLE = 64  # rows of each cluster that it is learnt from
_BLOCK = 1 << 20

Batches = Callable[[], Iterable[tuple[Any, Vectors]]]  # ids, and a row for each


class VectorIndex:
    """FAISS by inner product over normalised rows. `version` is that of the knowledge base it was made from.

    Adds and searches take turns: FAISS allows searches side by side, but none while rows come or go.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._learnt: Any = None  # rows in clusters that were learnt from them, or None
        self._new: Any = None  # those that came since, compared exactly; the first of all say how wide it is
        self._learning = threading.Lock()
        self._touched: list[int] = []  # what came and went during it

    @classmethod
    def build(cls, version: int, rows: int, batches: Batches) -> VectorIndex:
        """From all rows of a base; goes through `batches` twice when they are many."""
        index = cls(version)
        if rows >= LARGE:
            index._learnt = _clustered(rows, batches)
        else:
            for ids, vectors in batches():
                index.add(ids, vectors)
        return index

    @property
    def large(self) -> bool:
        """Whether it is approximate, and worth being kept on disk."""
        return self._learnt is not None

    def add(self, ids: Sequence[int], rows: Vectors) -> None:
        with self._lock:
            if self._new is None:
                self._new = _exact(rows.shape[1])
            self._new.add_with_ids(np.ascontiguousarray(rows), np.asarray(ids, np.int64))
            self._note(ids)

    def remove(self, ids: Sequence[int]) -> None:
        with self._lock:
            for part in self._parts():
                part.remove_ids(np.asarray(ids, np.int64))
            self._note(ids)

    def nearest(self, vector: Vectors, limit: int) -> list[int]:
        """Passage ids, nearest first; fewer than `limit` when there are fewer rows."""
        import faiss  # tens of MB, and only those who search need it

        faiss.omp_set_num_threads(1)  # of this thread: threads that wait for each other cost more than they bring
        vector = np.ascontiguousarray(vector)
        with self._lock:
            found = [part.search(vector, limit) for part in self._parts()]
        near = [
            (score, int(i))
            for scores, ids in found
            for score, i in zip(scores[0].tolist(), ids[0], strict=True)
            if i >= 0
        ]
        near.sort(key=lambda pair: -pair[0])
        return [i for _, i in near[:limit]]

    @property
    def overdue(self) -> bool:
        """Whether it is time to `learn`: to compare all that is new takes long."""
        return self._new is not None and self._new.ntotal >= LARGE

    def learn(self) -> None:
        """Clusters from all rows of now, while others search, add and remove. Takes seconds, of a million rows a
        minute; returns at once when another thread is at it."""
        import faiss

        if not self._learning.acquire(blocking=False):
            return
        try:
            faiss.omp_set_num_threads(1)  # of this thread: nobody waits for it, and others have to answer
            with self._lock:
                parts, self._touched = self._parts(), []
                rows = sum(part.ntotal for part in parts)
            learnt = _clustered(rows, lambda: (batch for part in parts for batch in _rows(part, self._lock)))
            with self._lock:
                touched = np.unique(np.asarray(self._touched, np.int64))
                learnt.remove_ids(touched)
                new = _exact(learnt.d)
                for ids, vectors in _rows(self._new, contextlib.nullcontext()):
                    came = np.isin(ids, touched)
                    new.add_with_ids(vectors[came], ids[came])
                self._learnt, self._new = learnt, new
        finally:
            self._learning.release()

    def settle(self) -> None:
        """Waits for whoever learns."""
        with self._learning:
            pass

    def _parts(self) -> list[Any]:
        return [part for part in (self._learnt, self._new) if part is not None]

    def _note(self, ids: Sequence[int]) -> None:
        if self._learning.locked():
            self._touched += ids

    def save(self, path: Path) -> None:
        """Writes a large one beside `path` and puts it there in one step, with a checksum. A failed write leaves no
        trace."""
        import faiss

        part = path.with_suffix(".part")
        try:
            with self._lock:
                faiss.write_index(self._learnt, str(part))
                head = {"version": self.version, "rows": self._learnt.ntotal, "learnt": part.stat().st_size}
                with part.open("ab") as file:
                    for ids, vectors in _rows(self._new, contextlib.nullcontext()) if self._new is not None else ():
                        head["new"] = len(ids)
                        file.write(np.asarray(ids, "<i8").tobytes() + np.asarray(vectors, "<f4").tobytes())
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
            index._learnt = faiss.read_index(str(path))  # reads what it needs; the rest comes behind it
            if new := head.get("new"):
                with path.open("rb") as file:
                    file.seek(head["learnt"])
                    ids = np.fromfile(file, "<i8", new).tolist()
                    index.add(ids, np.fromfile(file, "<f4", new * index._learnt.d).reshape(new, -1))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None
        return index if index._learnt.ntotal == head["rows"] else None


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


def _exact(dimension: int) -> Any:
    import faiss

    return faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))


def _clustered(rows: int, batches: Batches) -> Any:
    """An approximate index of these rows, its clusters learnt from some of them, taken evenly from all."""
    step = max(1, rows // (_SAMPLE * _lists(rows)))
    position = 0
    sample = []
    for _, vectors in batches():
        sample.append(vectors[-position % step :: step].copy())
        position += len(vectors)
    training = np.concatenate(sample)
    index = _clusters(training.shape[1], rows)
    index.train(training)
    for ids, vectors in batches():
        index.add_with_ids(np.ascontiguousarray(vectors), np.asarray(ids, np.int64))
    return index


def _rows(index: Any, lock: AbstractContextManager[Any]) -> Iterator[tuple[Any, Vectors]]:
    """What is in an index, bit by bit: ids and vectors, of an approximate one as exact as that keeps them."""
    import faiss

    if isinstance(index, faiss.IndexIDMap2):
        with lock:
            ids, vectors = faiss.vector_to_array(index.id_map), index.index.reconstruct_n(0, index.ntotal)
        yield ids, vectors
        return
    lists = index.invlists
    for number in range(index.nlist):
        with lock:
            if not (size := lists.list_size(number)):
                continue
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).copy()
        vectors = index.sq.decode(codes.reshape(size, -1))
        if index.by_residual:
            vectors += index.quantizer.reconstruct(number)
        yield ids, vectors


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
