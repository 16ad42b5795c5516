"""The embedded store: one SQLite file is the truth, FTS5 its keyword index, FAISS in memory its vector index.

Any number of readers, one writer at a time. The process may be killed at any moment. Knows no embedding model.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from backends.errors import Conflict, NotFound
from rag import fts
from rag.index import VectorIndex
from rag.ranking import Candidate, Candidates
from rag.sqlite import Database
from rag.store import (
    Job,
    NewFile,
    NewPassage,
    Vectors,
    files,
    knowledge_bases,
    metadata,
    passages,
    settings,
    vectors,
)
from rag.types import FileRecord, KnowledgeBase

_CHUNK = 4096  # rows read or written at once


class SqliteStore:
    """A Store in the folder `folder`. Raises QuartetError when the database there is damaged."""

    def __init__(self, folder: Path) -> None:
        self._db = Database(folder / "quartet.db", metadata)
        self._indexes: dict[int, VectorIndex] = {}
        self._indexing = threading.Lock()

    def close(self) -> None:
        self._db.close()

    # ---- knowledge bases

    def bases(self) -> list[KnowledgeBase]:
        query = (
            select(knowledge_bases.c.name, func.count(files.c.id), func.coalesce(func.sum(files.c.passages), 0))
            .outerjoin(files)
            .group_by(knowledge_bases.c.id)
            .order_by(knowledge_bases.c.id)
        )
        with self._db.read() as db:
            return [KnowledgeBase(*row) for row in db.execute(query)]

    def create_base(self, name: str) -> KnowledgeBase:
        try:
            with self._db.write() as db:
                db.execute(insert(knowledge_bases).values(name=name, version=0))
                fts.create(db, _base_id(db, name))
        except IntegrityError:
            raise Conflict(f"There is already a knowledge base named “{name}”; choose another name.") from None
        return KnowledgeBase(name, 0, 0)

    def delete_base(self, name: str) -> list[str]:
        with self._db.write() as db:
            base_id = _base_id(db, name)
            gone = list(db.scalars(select(files.c.id).where(files.c.base_id == base_id)))
            fts.drop(db, base_id)
            db.execute(delete_from(knowledge_bases).where(knowledge_bases.c.id == base_id))
        with self._indexing:
            self._indexes.pop(base_id, None)
        self._db.forget()
        return gone

    # ---- files

    def add_file(self, base: str, file: NewFile) -> FileRecord:
        with self._db.write() as db:
            base_id = _base_id(db, base)
            same = db.execute(
                select(files).where(files.c.base_id == base_id, files.c.sha256 == file.sha256)
            ).one_or_none()
            if same is None:
                db.execute(
                    insert(files).values(
                        id=file.id,
                        base_id=base_id,
                        name=file.name,
                        size=file.size,
                        sha256=file.sha256,
                        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                        pages=None,
                        **_QUEUED,
                    )
                )
            elif same.state == "failed":
                db.execute(update(files).where(files.c.id == same.id).values(**_QUEUED))
            return _record(_file(db, base_id, file.id if same is None else same.id))

    def files(self, base: str) -> list[FileRecord]:
        with self._db.read() as db:
            query = select(files).where(files.c.base_id == _base_id(db, base)).order_by(files.c.number)
            return [_record(row) for row in db.execute(query)]

    def file(self, base: str, file_id: str) -> FileRecord:
        with self._db.read() as db:
            return _record(_file(db, _base_id(db, base), file_id))

    def delete_file(self, base: str, file_id: str) -> None:
        with self._db.write() as db:
            base_id = _base_id(db, base)
            _file(db, base_id, file_id)
            version, removed = self._delete(db, base_id, [file_id])
        self._keep_index_in_step(base_id, version, removed=removed)
        self._db.forget()

    def file_ids(self) -> set[str]:
        with self._db.read() as db:
            return set(db.scalars(select(files.c.id)))

    # ---- the way of a file

    def jobs(self) -> list[Job]:
        query = (
            select(knowledge_bases.c.name, files.c.id, files.c.name, files.c.state == "embedding")
            .join(files)
            .where(files.c.state.in_(_UNFINISHED))
            .order_by(files.c.number)
        )
        with self._db.read() as db:
            return [Job(base, file_id, name, bool(parsed)) for base, file_id, name, parsed in db.execute(query)]

    def parsing(self, file_id: str, progress: float, pages: int | None) -> None:
        self._update(file_id, state="parsing", progress=progress, pages=pages)

    def parsed(self, file_id: str, pages: int | None, new: Iterable[NewPassage], note: str) -> None:
        rows = [
            {
                "file_id": file_id,
                "position": position,
                "text": passage.text,
                "words": " ".join(passage.words),
                "page": passage.page,
                "heading": passage.heading,
            }
            for position, passage in enumerate(new)
        ]
        with self._db.write() as db:
            if db.execute(
                update(files)
                .where(files.c.id == file_id, files.c.state.in_(_UNFINISHED))
                .values(state="embedding", progress=0.0, passages=0, pages=pages, error=note)
            ).rowcount:
                db.execute(delete_from(passages).where(passages.c.file_id == file_id))
                if rows:
                    db.execute(insert(passages), rows)

    def passages_without_vector(self, file_id: str) -> list[int]:
        query = (
            select(passages.c.id)
            .outerjoin(vectors)
            .where(passages.c.file_id == file_id, vectors.c.passage_id.is_(None))
            .order_by(func.length(passages.c.text).desc())
        )
        with self._db.read() as db:
            return list(db.scalars(query))

    def passage_texts(self, ids: Sequence[int]) -> list[str]:
        with self._db.read() as db:
            rows = db.execute(select(passages.c.id, passages.c.text).where(passages.c.id.in_(ids)))
            texts = {row.id: row.text for row in rows}
        return [texts.get(i, "") for i in ids]

    def add_vectors(self, file_id: str, ids: Sequence[int], rows: Vectors) -> None:
        with self._db.write() as db:
            # The file may have been deleted meanwhile: then there is nothing to add to.
            here = set(db.scalars(select(passages.c.id).where(passages.c.id.in_(ids))))
            new = [{"passage_id": i, "vector": row.tobytes()} for i, row in zip(ids, rows, strict=True) if i in here]
            if new:
                db.execute(insert(vectors), new)
            last = select(func.max(passages.c.position) + 1.0).where(passages.c.file_id == file_id).scalar_subquery()
            done = files.c.passages + len(new)
            db.execute(
                update(files)
                .where(files.c.id == file_id, files.c.state == "embedding")
                .values(passages=done, progress=func.min(1.0, done / last))
            )

    def finish(self, file_id: str) -> list[str]:
        with self._db.write() as db:
            file = db.execute(select(files).where(files.c.id == file_id, files.c.state == "embedding")).one_or_none()
            bare = select(passages.c.id).outerjoin(vectors).where(vectors.c.passage_id.is_(None))
            if file is None or db.scalars(bare.where(passages.c.file_id == file_id).limit(1)).first():
                return []
            same_name = select(files.c.id).where(files.c.base_id == file.base_id, files.c.name == file.name)
            newer = same_name.where(files.c.number > file.number, files.c.state == "searchable")
            if db.scalars(newer).first():
                gone = [file_id]
            else:
                gone = list(db.scalars(same_name.where(files.c.number < file.number)))
                fts.add(db, file.base_id, file_id)
                count = select(func.count()).where(passages.c.file_id == file_id).scalar_subquery()
                db.execute(
                    update(files).where(files.c.id == file_id).values(state="searchable", progress=1.0, passages=count)
                )
            version, removed = self._delete(db, file.base_id, gone)
        self._keep_index_in_step(file.base_id, version, added=file_id, removed=removed)
        if gone:
            self._db.forget()
        return gone

    def fail(self, file_id: str, reason: str, error: str) -> None:
        with self._db.write() as db:
            failed = {"state": "failed", "progress": 1.0, "passages": 0, "reason": reason, "error": error}
            if db.execute(
                update(files).where(files.c.id == file_id, files.c.state.in_(_UNFINISHED)).values(**failed)
            ).rowcount:
                db.execute(delete_from(passages).where(passages.c.file_id == file_id))

    def use_embedding_model(self, name: str) -> None:
        with self._db.write() as db:
            before = db.scalar(select(settings.c.value).where(settings.c.name == "embedding_model"))
            if before == name:
                return
            if before is None:
                db.execute(insert(settings).values(name="embedding_model", value=name))
                return
            db.execute(update(settings).where(settings.c.name == "embedding_model").values(value=name))
            db.execute(delete_from(vectors))
            for file_id, base_id in db.execute(
                select(files.c.id, files.c.base_id).where(files.c.state == "searchable")
            ).all():
                fts.remove(db, base_id, file_id)
            db.execute(
                update(files)
                .where(files.c.state.in_(["searchable", "embedding"]))
                .values(state="embedding", progress=0.0, passages=0)
            )
            db.execute(update(knowledge_bases).values(version=knowledge_bases.c.version + 1))

    # ---- search

    def candidates(self, base: str, words: Sequence[str], vector: Vectors | None, limit: int) -> Candidates:
        with self._db.read() as db:
            base_id = _base_id(db, base)
        near = self._index(base_id).nearest(vector, limit) if vector is not None else []
        with self._db.read() as db:
            base_id = _base_id(db, base)
            searchable = (files.c.base_id == base_id) & (files.c.state == "searchable")
            total = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
            frequency, matching = fts.search(db, base_id, words, limit)
            ids = list(dict.fromkeys([*matching, *near]))
            query = (
                select(passages, files.c.name, vectors.c.vector)
                .join(files, passages.c.file_id == files.c.id)
                .join(vectors)
                .where(passages.c.id.in_(ids), searchable)
            )
            found = [
                Candidate(
                    passage_id=row.id,
                    text=row.text,
                    words=tuple(row.words.split()),
                    cosine=None if vector is None else float(np.frombuffer(row.vector, np.float32) @ vector[0]),
                    file=row.name,
                    file_id=row.file_id,
                    page=row.page,
                    heading=row.heading,
                )
                for row in db.execute(query)
            ]
        return Candidates(found, total, frequency)

    def _index(self, base_id: int) -> VectorIndex:
        """The index of the newest commit; made anew when there is none or it is not of that commit."""
        with self._indexing, self._db.read() as db:
            version = db.scalar(select(knowledge_bases.c.version).where(knowledge_bases.c.id == base_id)) or 0
            index = self._indexes.get(base_id)
            if index is None or index.version != version:
                index = self._indexes[base_id] = _build_index(db, base_id, version)
            return index

    def _keep_index_in_step(
        self, base_id: int, version: int, added: str | None = None, removed: Sequence[int] = ()
    ) -> None:
        with self._indexing, self._db.read() as db:
            index = self._indexes.get(base_id)
            if index is None:
                return
            if index.version != version - 1:  # made from the newer commit already, or of one too old
                return
            if removed:
                index.remove(removed)
            if added:
                for ids, rows in _vectors(db, files.c.id == added):
                    index.add(ids, rows)
            index.version = version

    # ---- the database

    def _delete(self, db: Connection, base_id: int, ids: Sequence[str]) -> tuple[int, list[int]]:
        """Takes files out of all tables; returns the new version of the base and the passages that were searchable."""
        removed: list[int] = []
        for row in db.execute(select(files.c.id, files.c.state).where(files.c.id.in_(ids))).all():
            if row.state == "searchable":
                removed.extend(db.scalars(select(passages.c.id).where(passages.c.file_id == row.id)))
                fts.remove(db, base_id, row.id)
        db.execute(delete_from(files).where(files.c.id.in_(ids)))
        version = db.scalar(
            update(knowledge_bases)
            .where(knowledge_bases.c.id == base_id)
            .values(version=knowledge_bases.c.version + 1)
            .returning(knowledge_bases.c.version)
        )
        assert version is not None  # noqa: S101  its file was there a moment ago
        return version, removed

    def _update(self, file_id: str, **values: Any) -> None:
        with self._db.write() as db:
            db.execute(update(files).where(files.c.id == file_id).values(**values))


_UNFINISHED = ("uploaded", "parsing", "embedding")
_QUEUED = {"state": "uploaded", "passages": 0, "progress": 0.0, "reason": "", "error": ""}


def _base_id(db: Connection, name: str) -> int:
    base_id: int | None = db.scalar(select(knowledge_bases.c.id).where(knowledge_bases.c.name == name))
    if base_id is None:
        raise NotFound(f"There is no knowledge base named “{name}”; create it first, or choose one from the list.")
    return base_id


def _file(db: Connection, base_id: int, file_id: str) -> Row[Any]:
    row = db.execute(select(files).where(files.c.id == file_id, files.c.base_id == base_id)).one_or_none()
    if row is None:
        raise NotFound("This knowledge base has no such file; it may have been deleted or replaced.")
    return row


def _record(row: Row[Any]) -> FileRecord:
    fields = ("id", "name", "state", "size", "pages", "passages", "progress", "reason", "error", "created_at")
    return FileRecord(**{field: getattr(row, field) for field in fields})


def _vectors(db: Connection, which: Any) -> Iterator[tuple[list[int], Vectors]]:
    query = (
        select(vectors.c.passage_id, vectors.c.vector)
        .join(passages, passages.c.id == vectors.c.passage_id)
        .join(files, files.c.id == passages.c.file_id)
        .where(which)
    )
    for rows in db.execute(query).partitions(_CHUNK):
        matrix = np.frombuffer(b"".join(row.vector for row in rows), np.float32).reshape(len(rows), -1)
        yield [row.passage_id for row in rows], matrix


def _build_index(db: Connection, base_id: int, version: int) -> VectorIndex:
    index = VectorIndex(version)
    for ids, rows in _vectors(db, (files.c.base_id == base_id) & (files.c.state == "searchable")):
        index.add(ids, rows)
    return index
