"""The vector index: exact while small, approximate when large, kept on disk, and never trusted blindly."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag import index as module
from rag.index import VectorIndex
from rag.store import Vectors

DIMENSION = 32
ROWS = 4_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index counts as large from 2,000 rows on."""
    monkeypatch.setattr(module, "LARGE", 2_000)


def topics(rows: int, seed: int = 0) -> Vectors:
    """Normalised rows around common centres, as passages are about common subjects."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((40, DIMENSION))
    found = centres[random.integers(0, 40, rows)] + random.standard_normal((rows, DIMENSION))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def batches(rows: Vectors, size: int = 700) -> Iterator[tuple[list[int], Vectors]]:
    for start in range(0, len(rows), size):
        yield [10 * n for n in range(start, min(len(rows), start + size))], rows[start : start + size]


def recall(index: VectorIndex, rows: Vectors, questions: int = 50) -> float:
    """How many of the ten nearest by exact comparison are among fifty of the index."""
    found = []
    for question in topics(questions, seed=1):
        exact = {int(10 * n) for n in np.argsort(-(rows @ question))[:10]}
        found.append(len(exact & set(index.nearest(question[None], 50))) / 10)
    return float(np.mean(found))


def test_few_rows_are_compared_exactly() -> None:
    rows = topics(1_000)
    index = VectorIndex.build(1, len(rows), lambda: batches(rows))
    assert not index.large
    assert recall(index, rows) == 1.0


def test_many_rows_are_found_nearly_as_well() -> None:
    rows = topics(ROWS)
    index = VectorIndex.build(1, len(rows), lambda: batches(rows))
    assert index.large
    assert recall(index, rows) >= 0.97


def by_subject(rows: Vectors) -> Vectors:
    """As files come: what is about the same thing comes together."""
    return rows[np.argsort(rows @ topics(1, seed=9)[0])]


def test_an_index_that_grows_learns_what_has_come() -> None:
    rows = by_subject(topics(3 * ROWS))
    index = VectorIndex(1)
    for ids, vectors in batches(rows, size=100):
        index.add(ids, vectors)
        if index.overdue:
            assert len(index.nearest(rows[:1], 20)) == 20
            index.learn()
            assert not index.overdue
        assert recall(index, rows[: ids[-1] // 10 + 1], questions=3) >= 0.9
    assert index.large
    assert recall(index, rows) >= 0.97


def test_what_comes_and_goes_while_it_learns_is_not_lost() -> None:
    rows = topics(3 * ROWS)
    index = VectorIndex(1)
    index.add(range(ROWS), rows[:ROWS])
    for round_ in (1, 2):  # from exact to approximate, and from that anew
        learning = threading.Thread(target=index.learn)
        learning.start()
        start = round_ * ROWS
        for at in range(start, start + ROWS, 100):
            index.add(range(at, at + 100), rows[at : at + 100])
            index.remove(range(at - 10, at + 10))
        learning.join()
        assert index.large
    gone = {i for at in range(ROWS, 3 * ROWS, 100) for i in range(at - 10, at + 10)}
    kept = [i for part in index._parts() for ids, _ in module._rows(part, contextlib.nullcontext()) for i in ids]
    assert sorted(kept) == sorted(set(range(3 * ROWS)) - gone)
    for at in (5, ROWS + 50, 2 * ROWS + 50, 3 * ROWS - 50):
        assert index.nearest(rows[at : at + 1], 1) == [at]


def test_what_is_removed_is_not_found() -> None:
    rows = topics(ROWS)
    index = VectorIndex.build(1, len(rows), lambda: batches(rows))
    (nearest, *_) = index.nearest(rows[:1], 10)
    index.remove([nearest])
    assert nearest not in index.nearest(rows[:1], 50)


def test_a_saved_index_is_the_same_again(tmp_path: Path) -> None:
    rows = topics(ROWS)
    index = VectorIndex.build(7, len(rows), lambda: batches(rows))
    came = topics(3, seed=3)  # after the clusters were learnt
    index.add([1, 2, 3], came)
    index.save(tmp_path / "1.faiss")
    again = VectorIndex.load(tmp_path / "1.faiss", 7)
    assert again is not None
    assert again.large
    assert again.nearest(came[:1], 1) == [1]
    for question in topics(20, seed=2):
        assert again.nearest(question[None], 50) == index.nearest(question[None], 50)
    assert [file.name for file in tmp_path.iterdir()] == ["1.faiss"]


def test_an_index_that_is_missing_stale_or_damaged_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "1.faiss"
    assert VectorIndex.load(path, 7) is None
    rows = topics(ROWS)
    VectorIndex.build(7, len(rows), lambda: batches(rows)).save(path)
    assert VectorIndex.load(path, 8) is None
    whole = path.read_bytes()
    for damaged in (
        b"", b"x", whole[:-1], whole[: len(whole) // 2],
        whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:], whole[:-10] + b"x" * 10,
    ):  # fmt: skip
        path.write_bytes(damaged)
        assert VectorIndex.load(path, 7) is None
