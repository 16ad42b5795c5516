"""The embedded store: one SQLite file is the truth, FTS5 its keyword index, FAISS in memory its vector index.

Any number of readers, one writer at a time. The process may be killed at any moment. Knows no embedding model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, select, update

from rag import fts
from rag.errors import ModelChanged
from rag.index import VectorIndex
from rag.sql_rows import Searched, serving_slot
from rag.sql_store import SqlStore
from rag.sqlite import Database
from rag.store import TABLES, Vectors, embedding_models, files, knowledge_bases, passages, vector_slots

_log = logging.getLogger(__name__)

_CHUNK = 4096  # rows read at once
_PATIENCE = 2.0  # seconds that an index may be behind a commit before it is made anew
_VERSION = select(knowledge_bases.c.version).where(knowledge_bases.c.id == bindparam("base"))
_COUNTS = 100_000  # words of a base whose counts are remembered


class SqliteStore(SqlStore):
    """A Store in the folder `folder`. Raises QuartetError when the database there is damaged."""

    def __init__(self, folder: Path) -> None:
        self._file = Database(folder / "quartet.db", TABLES)
        super().__init__(self._file)
        self._index_folder = folder / "indexes"  # copies of large ones; may be deleted at any time
        self._indexes: dict[tuple[int, int], VectorIndex] = {}  # by base and place of its vectors
        self._indexing = threading.Condition()  # says when one of them was brought up to a commit
        self._counts: dict[int, dict[str, fts.Count]] = {}  # of the words of a base
        try:
            self._drop_claims()
            self._sweep_indexes()
        except BaseException:
            self._file.close()
            raise

    def _drop_claims(self) -> None:
        """One process at a time has the folder: whoever held a claim is gone."""
        with self._db.write() as db:
            for table in (files, embedding_models):
                db.execute(
                    update(table).values(claimed_by=None, claimed_until=None).where(table.c.claimed_by.is_not(None))
                )

    def _sweep_indexes(self) -> None:
        """What a process left there that was killed while it deleted a base."""
        with self._db.read() as db:
            there = {self._index_file(base_id) for base_id in db.scalars(select(knowledge_bases.c.id))}
        for file in self._index_folder.glob("*"):
            if file not in there:
                file.unlink()

    def close(self) -> None:
        with self._indexing:
            for (base_id, _), index in self._indexes.items():
                index.settle()
                self._save(base_id, index)
        super().close()

    def _now(self, db: Connection) -> float:
        return time.time()

    def _base_made(self, db: Connection, base_id: int) -> None:
        fts.create(db, base_id)

    def _base_going(self, db: Connection, base_id: int) -> None:
        fts.drop(db, base_id)

    def _base_gone(self, base_id: int) -> None:
        # Not before the commit: a search would bring them back.
        self._counts.pop(base_id, None)
        with self._indexing:
            for slot in range(len(vector_slots)):
                self._indexes.pop((base_id, slot), None)
            self._index_file(base_id).unlink(missing_ok=True)

    def _file_words(self, db: Connection, base_id: int, file_id: str) -> None:
        fts.add(db, base_id, file_id)

    def _unfile_words(self, db: Connection, base_id: int, file_id: str) -> None:
        fts.remove(db, base_id, file_id)

    def _by_words(
        self, db: Connection, base: Searched, words: Sequence[str], limit: int, total: int
    ) -> tuple[dict[str, int], list[int]]:
        known = self._counts.setdefault(base.base_id, {})
        if len(known) > _COUNTS:
            known.clear()
        return fts.search(db, base.base_id, words, limit, (base.version, total), known)

    def _forget(self) -> None:
        self._file.forget()

    # ---- vectors

    def _nearest(self, db: Connection, base: Searched, vector: Vectors, limit: int) -> list[int] | None:
        index = self._indexes.get((base.base_id, base.slot))
        # One of a later commit will do: what it lacks is gone, and what it has too much is not there yet.
        return None if index is None or index.version < base.version else index.nearest(vector, limit)

    def _get_ready(self, base: Searched) -> None:
        """Brings the index to the newest commit; makes it anew when there is none or it does not come to that one."""
        base_id, slot = base.base_id, base.slot
        until = time.monotonic() + _PATIENCE
        with self._indexing:
            while True:
                with self._db.read() as db:
                    if serving_slot(db)[0] != slot:
                        raise ModelChanged
                    version = db.scalar(_VERSION, {"base": base_id})
                    if version is None:
                        return  # deleted just now: who asks will find that out
                    index = self._indexes.get((base_id, slot))
                    if index is not None and index.version == version:
                        return
                    if index is None or index.version > version or time.monotonic() >= until:
                        self._make_index(db, base_id, slot, version)
                        return
                # Between a commit and _changed, which follows at once: to make a large one anew would take a minute.
                self._indexing.wait(until - time.monotonic())

    def _make_index(self, db: Connection, base_id: int, slot: int, version: int) -> None:
        """From its copy on the disk, or else from the vectors."""
        index = VectorIndex.load(self._index_file(base_id), version)
        if index is None:
            self._index_file(base_id).unlink(missing_ok=True)  # stale or damaged
            index = _build_index(db, base_id, slot, version)
            self._save(base_id, index)
        self._indexes[base_id, slot] = index
        _learn_if_due(index)

    def _prepare(self, slot: int) -> None:
        with self._db.read() as db:
            for base_id in db.scalars(select(knowledge_bases.c.id)).all():
                with self._indexing:  # one of another model that did not come into service
                    self._indexes.pop((base_id, slot), None)
                self._make_next(db, base_id, slot)

    def _coming(self, db: Connection, slot: int) -> None:
        # What was changed since it was prepared is made again; it is not found by its version before the commit.
        for base_id in db.scalars(select(knowledge_bases.c.id)).all():
            self._make_next(db, base_id, slot)

    def _make_next(self, db: Connection, base_id: int, slot: int) -> None:
        """The index that is the right one after the next change of version, if that is the swap."""
        version = _version(db, base_id) + 1
        index = self._indexes.get((base_id, slot))
        if index is None or index.version != version:
            index = _build_index(db, base_id, slot, version)
            with self._indexing:
                self._indexes[base_id, slot] = index

    def _came(self, slot: int) -> None:
        with self._indexing:
            for base_id, other in list(self._indexes):
                if other == slot:
                    self._save(base_id, self._indexes[base_id, slot])
                else:
                    del self._indexes[base_id, other]

    def _index_file(self, base_id: int) -> Path:
        return self._index_folder / f"{base_id}.faiss"

    def _save(self, base_id: int, index: VectorIndex) -> None:
        """Writes a large index to disk, unless it is there: making it again would take the next start a minute."""
        path = self._index_file(base_id)
        if not index.large or VectorIndex.is_saved(path, index.version):
            return
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            index.save(path)
        except (OSError, RuntimeError):  # the disk is full, say: all of it is in the database
            _log.warning("the index of a knowledge base could not be written; it will be made again")

    def _changed(self, base_id: int, version: int, added: str | None = None, removed: Sequence[int] = ()) -> None:
        with self._indexing:
            with self._db.read() as db:
                slot, _ = serving_slot(db)
            # Of two threads that commit, the second may be here first.
            self._indexing.wait_for(lambda: not self._lacks(base_id, slot, version - 1), _PATIENCE)
            try:
                self._bring_up(base_id, version, added, removed)
            finally:
                self._indexing.notify_all()

    def _lacks(self, base_id: int, slot: int, version: int) -> bool:
        index = self._indexes.get((base_id, slot))
        return index is not None and index.version < version

    def _bring_up(self, base_id: int, version: int, added: str | None, removed: Sequence[int]) -> None:
        with self._db.read() as db:
            slot, _ = serving_slot(db)
            if removed:  # what is deleted must not lie on the disk
                self._index_file(base_id).unlink(missing_ok=True)
            index = self._indexes.get((base_id, slot))
            if index is None:
                return
            if index.version != version - 1:  # made from the newer commit already, or of one too old
                return
            if removed:
                index.remove(removed)
            if added:
                for ids, rows in _vectors(db, slot, files.c.id == added):
                    index.add(ids, rows)
                _learn_if_due(index)
            index.version = version


def _learn_if_due(index: VectorIndex) -> None:
    if index.overdue:
        threading.Thread(target=index.learn, name="index-learns", daemon=True).start()


def _version(db: Connection, base_id: int) -> int:
    return db.scalar(_VERSION, {"base": base_id}) or 0


def _vectors(db: Connection, slot: int, which: Any) -> Iterator[tuple[list[int], Vectors]]:
    vectors = vector_slots[slot]
    query = (
        select(vectors.c.passage_id, vectors.c.vector)
        .join(passages, passages.c.id == vectors.c.passage_id)
        .join(files, files.c.id == passages.c.file_id)
        .where(which)
    )
    for rows in db.execute(query).partitions(_CHUNK):
        yield [row.passage_id for row in rows], np.stack([row.vector for row in rows])


def _build_index(db: Connection, base_id: int, slot: int, version: int) -> VectorIndex:
    searchable = (files.c.base_id == base_id) & (files.c.state == "searchable")
    rows = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
    return VectorIndex.build(version, rows, lambda: _vectors(db, slot, searchable))
