"""How long a search takes in knowledge bases of growing size, and what the approximate index misses.

    python -m bench.search [--sizes 1000 10000 100000] [--queries 200] [--folder FOLDER]

A million (--sizes 1000000) needs 8 GB of disk and is written in a quarter of an hour; with a folder, what is written is
kept for the next time.

The passages are synthetic: words drawn as language draws them (Zipf), vectors around common subjects as those of
passages are. They are written by the store that the app uses. A search is the store's candidates, by keywords and by
vector, and their ranking; the embedding of the question is not in it. Recall: how many of the 10 nearest by exact
comparison are among the candidates of the index. At the end the store is opened anew: time to the first answer.
Those are indexes of all rows at once. The last line is of one that grows while it is used, by one subject after the
other, and is asked about all of them.
CPU is the time that the searches computed: on a machine that others use, too, it is what can be compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rag.index import VectorIndex
from rag.ranking import rank
from rag.sqlite_store import SqliteStore
from rag.store import NewFile, NewPassage, Vectors

DIMENSION = 384
WORDS_IN_PASSAGE, WORDS_IN_QUESTION = 150, 6
VOCABULARY = 50_000
PASSAGES_IN_FILE = 10_000
PASSAGES_ON_SUBJECT = 200
CANDIDATES = 50
GROWN, GROWS_BY = 100_000, 500  # passages


class Corpus:
    """Passages by number, the same each time, without keeping them. 1/`VOCABULARY` is the rarest word's share."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(size)
        self.size = size
        self._subjects = random.standard_normal((max(8, size // PASSAGES_ON_SUBJECT), DIMENSION)).astype(np.float32)
        share = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = np.cumsum(share / share.sum())

    def words(self, random: np.random.Generator, count: int) -> list[str]:
        return [f"w{n}" for n in np.searchsorted(self._shares, random.random(count))]

    def texts(self, block: int, count: int) -> Iterator[list[str]]:
        random = np.random.default_rng([self.size, 1, block])
        for _ in range(count):
            yield self.words(random, WORDS_IN_PASSAGE)

    def vectors(self, block: int, count: int) -> Vectors:
        random = np.random.default_rng([self.size, 2, block])
        rows = self._subjects[random.integers(0, len(self._subjects), count)]
        return normalised(rows + random.standard_normal((count, DIMENSION), dtype=np.float32))

    def questions(self, count: int) -> tuple[list[list[str]], Vectors]:
        """Each near some passage, as a question is near its answer; its words are those of language, common ones and
        rare ones."""
        random = np.random.default_rng([self.size, 3])
        asked = [self.words(random, WORDS_IN_QUESTION) for _ in range(count)]
        near = self.vectors(0, min(self.size, PASSAGES_IN_FILE))
        rows = near[random.integers(0, len(near), count)]
        noise = random.standard_normal((count, DIMENSION), dtype=np.float32) / np.sqrt(DIMENSION)
        return asked, normalised(rows + noise)


def normalised(rows: Vectors) -> Vectors:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def fill(store: SqliteStore, corpus: Corpus) -> None:
    store.create_base("bench")
    for block, start in enumerate(range(0, corpus.size, PASSAGES_IN_FILE)):
        count = min(PASSAGES_IN_FILE, corpus.size - start)
        name = f"{block}"
        store.add_file("bench", NewFile(name, f"{name}.txt", 1, name))
        new = [NewPassage(" ".join(words), words, None, "") for words in corpus.texts(block, count)]
        store.parsed(name, None, new, "")
        ids = sorted(store.passages_without_vector(name))
        store.add_vectors(name, ids, corpus.vectors(block, count))
        store.finish(name)


def recall(store: SqliteStore, corpus: Corpus, questions: Vectors) -> float:
    """Passage ids count from 1 in the order of writing."""
    best = np.full((len(questions), 10), -1.0, np.float32)
    ids = np.zeros((len(questions), 10), np.int64)
    for block, start in enumerate(range(0, corpus.size, PASSAGES_IN_FILE)):
        scores = questions @ corpus.vectors(block, min(PASSAGES_IN_FILE, corpus.size - start)).T
        both = np.concatenate([best, scores], axis=1)
        numbers = np.arange(start + 1, start + 1 + scores.shape[1])
        all_ids = np.concatenate([ids, np.broadcast_to(numbers, scores.shape)], axis=1)
        order = np.argpartition(-both, 10, axis=1)[:, :10] if both.shape[1] > 10 else np.argsort(-both, axis=1)
        best, ids = np.take_along_axis(both, order, 1), np.take_along_axis(all_ids, order, 1)
    shares = []
    for row, exact in zip(questions, ids, strict=True):
        found = {c.passage_id for c in store.candidates("bench", [], row[None], CANDIDATES).passages}
        shares.append(len(found & set(exact.tolist())) / len(exact))
    return float(np.mean(shares))


def grown(size: int) -> None:
    """Recall of an index to which rows come a few at a time, what is about the same thing together."""
    random = np.random.default_rng(size)
    subjects = random.standard_normal((size // PASSAGES_ON_SUBJECT, DIMENSION), dtype=np.float32)
    about = np.sort(random.integers(0, len(subjects), size))
    rows = normalised(subjects[about] + random.standard_normal((size, DIMENSION), dtype=np.float32))
    noise = random.standard_normal((100, DIMENSION), dtype=np.float32) / np.sqrt(DIMENSION)
    questions = normalised(rows[random.integers(0, size, 100)] + noise)
    index, learnt, worst, last = VectorIndex(0), 0, 1.0, 0.0

    def found(count: int) -> float:
        asked = questions @ rows[:count].T
        return float(np.mean([
            len(set(np.argpartition(-row, 10)[:10].tolist()) & set(index.nearest(question[None], CANDIDATES))) / 10
            for row, question in zip(asked, questions, strict=True)
        ]))  # fmt: skip

    for start in range(0, size, GROWS_BY):
        end = min(size, start + GROWS_BY)
        index.add(range(start, end), rows[start:end])
        if index.overdue:
            worst = min(worst, found(end))
            began = time.perf_counter()
            index.learn()
            learnt, last = learnt + 1, time.perf_counter() - began
    print(
        f"{size:>9,} passages, one subject after the other: recall of the index {found(size):.3f}, and just "
        f"before it learnt its clusters anew {worst:.3f} at worst ({learnt} times, the last in {last:.0f} s)",
        flush=True,
    )


def search(store: SqliteStore, words: list[str], row: Vectors) -> None:
    rank(" ".join(words), words, store.candidates("bench", words, row[None], CANDIDATES), frozenset({"latin"}))


def measure(size: int, queries: int, folder: Path) -> None:
    corpus = Corpus(size)
    words, vectors = corpus.questions(queries)
    began = time.perf_counter()
    written = "found there"
    store = SqliteStore(folder)
    if not store.bases():
        fill(store, corpus)
        written = f"written in {time.perf_counter() - began:.0f} s"
    search(store, words[0], vectors[0])
    times, computed = [], []
    for asked, row in zip(words, vectors, strict=True):
        began, before = time.perf_counter(), time.thread_time()
        search(store, asked, row)
        times.append(1000 * (time.perf_counter() - began))
        computed.append(1000 * (time.thread_time() - before))
    share = recall(store, corpus, vectors)
    store.close()
    began, before = time.perf_counter(), time.process_time()
    store = SqliteStore(folder)
    search(store, words[0], vectors[0])
    opened, cpu = time.perf_counter() - began, time.process_time() - before
    store.close()
    print(
        f"{size:>9,} passages: search {np.median(times):6.1f} ms median, {np.percentile(times, 95):6.1f} ms p95 "
        f"(CPU {np.median(computed):.1f} and {np.percentile(computed, 95):.1f});  recall of the index {share:.3f};  "
        f"searchable {opened:.1f} s after a start (CPU {cpu:.1f});  {written}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the knowledge bases are kept for the next time")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        if arguments.folder:
            measure(size, arguments.queries, arguments.folder / f"{size}")
        else:
            with tempfile.TemporaryDirectory() as folder:
                measure(size, arguments.queries, Path(folder))
    grown(GROWN)


if __name__ == "__main__":
    main()
