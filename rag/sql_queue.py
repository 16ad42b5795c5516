"""The way of a file from uploaded to searchable in a store in SQL: claims, passages, vectors, one commit at the end.

Knows no SQL dialect, and neither how a file is read nor how a vector is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update
from sqlalchemy import delete as delete_from

from rag import sql_whole
from rag.sql_parts import SqlPart
from rag.sql_rows import JOBS, UNFINISHED, job_of, serving_slot, short
from rag.store import (
    Job,
    NewPassage,
    Vectors,
    embedding_models,
    files,
    knowledge_bases,
    passages,
    successors,
    vector_slots,
)

_ROWS = 1_000  # written at once


class SqlQueue(SqlPart):
    """The part of a Store that has the files on their way."""

    def jobs(self) -> list[Job]:
        with self._db.read() as db:
            return [job_of(row) for row in db.execute(JOBS)]

    def waiting(self) -> int:
        with self._db.read() as db:
            return db.scalar(select(func.count()).where(files.c.state.in_(UNFINISHED))) or 0

    def claim(self, owner: str, seconds: float) -> Job | None:
        with self._db.read() as db:  # most of the time there is nothing, and that costs the others no lock
            if not db.execute(JOBS.where(self._free(db, files)).limit(1)).first():
                return None
        with self._db.write() as db:
            free = JOBS.where(self._free(db, files)).limit(1).with_for_update(skip_locked=True, of=files)
            row = db.execute(free).first()
            if row is None:
                return None
            until = self._now(db) + seconds
            db.execute(update(files).where(files.c.id == row.id).values(claimed_by=owner, claimed_until=until))
            return job_of(row)

    def renew(self, owner: str, file_ids: Sequence[str], seconds: float) -> None:
        with self._db.write() as db:
            mine = (files.c.claimed_by == owner) & files.c.id.in_(file_ids) & files.c.state.in_(UNFINISHED)
            until = self._now(db) + seconds
            db.execute(update(files).where(mine).values(claimed_until=until))
            changing = embedding_models.c.claimed_by == owner
            db.execute(update(embedding_models).where(changing).values(claimed_until=until))

    def release(self, owner: str, file_id: str) -> None:
        with self._db.write() as db:
            mine = (files.c.claimed_by == owner) & (files.c.id == file_id)
            db.execute(update(files).where(mine).values(claimed_by=None, claimed_until=None))

    def parsing(self, file_id: str, progress: float, pages: int | None) -> bool:
        with self._db.write() as db:
            # Not from embedding back: whoever lost its claim to another must not undo what that one has done.
            going = (files.c.id == file_id) & files.c.state.in_(["uploaded", "parsing"])
            told = db.execute(update(files).where(going).values(state="parsing", progress=progress, pages=pages))
            return told.rowcount > 0

    def parsed(self, file_id: str, pages: int | None, new: Iterable[NewPassage], note: str) -> None:
        rows = (
            {
                "file_id": file_id,
                "position": position,
                "text": passage.text.replace("\0", ""),
                "words": " ".join(short(passage.words)),
                "page": passage.page,
                "heading": passage.heading.replace("\0", ""),
            }
            for position, passage in enumerate(new)
        )
        with self._db.write() as db:
            if db.execute(
                update(files)
                .where(files.c.id == file_id, files.c.state.in_(UNFINISHED))
                .values(state="embedding", progress=0.0, passages=0, pages=pages, error=note)
            ).rowcount:
                db.execute(delete_from(passages).where(passages.c.file_id == file_id))
                while some := list(islice(rows, _ROWS)):
                    db.execute(insert(passages), some)

    def passages_without_vector(self, file_id: str) -> list[int]:
        with self._db.read() as db:
            bare = _bare(file_id, serving_slot(db)[0])
            return list(db.scalars(bare.order_by(func.length(passages.c.text).desc())))

    def passage_texts(self, ids: Sequence[int]) -> list[str]:
        with self._db.read() as db:
            rows = db.execute(select(passages.c.id, passages.c.text).where(passages.c.id.in_(ids)))
            texts = {row.id: row.text for row in rows}
        return [texts.get(i, "") for i in ids]

    def add_vectors(self, file_id: str, ids: Sequence[int], rows: Vectors, model: str = "", rate: float = 0.0) -> bool:
        with self._db.write() as db:
            file = db.execute(select(files).where(files.c.id == file_id).with_for_update()).one_or_none()
            if file is None or file.state != "embedding":  # deleted meanwhile, or another one was faster
                return False
            slot, name = serving_slot(db)
            if model and model != name:
                return False
            wanted = set(db.scalars(_bare(file_id, slot).where(passages.c.id.in_(ids))))
            new = [
                {"passage_id": i, "base_id": file.base_id, "vector": row}
                for i, row in zip(ids, rows, strict=True)
                if i in wanted
            ]
            if not new:
                return True
            db.execute(insert(vector_slots[slot]), new)
            total = db.scalar(select(func.max(passages.c.position) + 1).where(passages.c.file_id == file_id)) or 1
            done = file.passages + len(new)
            values = {"passages": done, "progress": min(1, done / total), "rate": rate}
            db.execute(update(files).where(files.c.id == file_id).values(**values))
            return True

    def finish(self, file_id: str) -> list[str]:
        with self._db.write() as db:
            base_id = db.scalar(select(files.c.base_id).where(files.c.id == file_id))
            # The base first, then the file: everybody who takes both takes them in this order.
            db.execute(select(knowledge_bases.c.id).where(knowledge_bases.c.id == base_id).with_for_update())
            mine = select(files).where(files.c.id == file_id, files.c.state == "embedding").with_for_update()
            file = db.execute(mine).one_or_none()
            if file is None or db.scalars(_bare(file_id, serving_slot(db)[0]).limit(1)).first():
                return []
            if file.renews:
                gone: list[str] = []
                version, removed = self._renew(db, file)
            else:
                version, removed, gone = self._put_in_place(db, file)
        self._changed(file.base_id, version, added=file.renews or file_id, removed=removed)
        if gone or removed:
            self._forget()
        return gone

    def _put_in_place(self, db: Connection, file: Row[Any]) -> tuple[int, list[int], list[str]]:
        """The new version of the base, the passages that were searchable and are gone, the files that are gone."""
        same_name = select(files.c.id).where(files.c.base_id == file.base_id, files.c.name == file.name)
        newer = same_name.where(files.c.number > file.number, files.c.state == "searchable")
        if db.scalars(newer).first():
            gone = [file.id]
        else:
            gone = list(db.scalars(same_name.where(files.c.number < file.number)))
            others = db.scalars(select(successors.c.file_id).where(successors.c.successor == file.id))
            gone += set(others).difference(gone)
            self._file_words(db, file.base_id, file.id)
            count = select(func.count()).where(passages.c.file_id == file.id).scalar_subquery()
            done = {"state": "searchable", "progress": 1.0, "claimed_by": None, "claimed_until": None}
            db.execute(update(files).where(files.c.id == file.id).values(passages=count, **done))
        version, removed = self._delete(db, file.base_id, gone)
        return version, removed, gone

    def _renew(self, db: Connection, reading: Row[Any]) -> tuple[int, list[int]]:
        """A file gets the passages of its new reading. The new version of the base, the passages that are gone."""
        base_id, file_id = reading.base_id, reading.renews
        old = passages.c.file_id == file_id
        removed = list(db.scalars(select(passages.c.id).where(old)))
        self._unfile_words(db, base_id, file_id)
        db.execute(delete_from(passages).where(old))
        db.execute(update(passages).where(passages.c.file_id == reading.id).values(file_id=file_id))
        self._file_words(db, base_id, file_id)
        db.execute(delete_from(files).where(files.c.id == reading.id))
        count = select(func.count()).where(old).scalar_subquery()
        values = {"pages": reading.pages, "error": reading.error, "passages": count}
        db.execute(update(files).where(files.c.id == file_id).values(**values))
        return sql_whole.changed(db, base_id), removed

    def fail(self, file_id: str, reason: str, error: str) -> None:
        with self._db.write() as db:
            which = (files.c.id == file_id) | (files.c.renews == file_id)
            unfinished = select(files).where(which, files.c.state.in_(UNFINISHED)).with_for_update()
            row = db.execute(unfinished).one_or_none()
            if row is None:
                return
            if row.renews is None:
                failed = {"state": "failed", "progress": 1.0, "passages": 0, "reason": reason, "error": error}
                db.execute(update(files).where(files.c.id == row.id).values(**failed))
                db.execute(delete_from(passages).where(passages.c.file_id == row.id))
                return
            db.execute(delete_from(files).where(files.c.id == row.id))
            if reason != "cancelled":
                note = f"It could not be read again; what was read of it before is still found. {error}"
                db.execute(update(files).where(files.c.id == row.renews).values(error=note))


def _bare(file_id: str, slot: int) -> Select[Any]:
    """Passages of a file that have no vector in this place."""
    table = vector_slots[slot]
    of_file = select(passages.c.id).outerjoin(table, table.c.passage_id == passages.c.id)
    return of_file.where(passages.c.file_id == file_id, table.c.passage_id.is_(None))
