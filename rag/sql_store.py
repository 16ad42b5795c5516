"""What both stores have in common: all of a Store but how words and vectors are searched. Knows no SQL dialect.

The subclass says how passages are filed for keyword search and how the nearest vectors are found.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, false, func, or_, select

from rag.errors import ModelChanged
from rag.ranking import Candidate, Candidates
from rag.sql_bases import SqlBases
from rag.sql_files import SqlFiles
from rag.sql_models import SqlModels
from rag.sql_queue import SqlQueue
from rag.sql_rows import base_id_of, serving_slot, short
from rag.store import Vectors, files, passages, vector_slots
from rag.types import Neighbours


class SqlStore(SqlBases, SqlFiles, SqlQueue, SqlModels):
    """A Store over `database`, but for what the subclass adds."""

    # ---- search

    def candidates(
        self, base: str, words: Sequence[str], vector: Vectors | None, limit: int, model: str = ""
    ) -> Candidates:
        near: list[int] = []
        if vector is not None:
            with self._db.read() as db:
                base_id, slot = base_id_of(db, base), _slot(db, model)
            near = self._nearest(base_id, slot, vector, limit)
        with self._db.read() as db:
            base_id, slot = base_id_of(db, base), _slot(db, "" if vector is None else model)
            vectors = vector_slots[slot]
            searchable = (files.c.base_id == base_id) & (files.c.state == "searchable")
            total = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
            frequency, matching = self._by_words(db, base_id, short(words), limit, total)
            rows = db.execute(
                select(passages, vectors.c.vector)
                .join(vectors, vectors.c.passage_id == passages.c.id)
                .where(passages.c.id.in_({*matching, *near}))
            ).all()
            # Asked apart: given all three tables, SQLite goes through every passage of the base to find these.
            mine = searchable & files.c.id.in_({row.file_id for row in rows})
            names = {row.id: row.name for row in db.execute(select(files.c.id, files.c.name).where(mine))}
            found = {
                row.id: Candidate(
                    passage_id=row.id,
                    text=row.text,
                    words=tuple(row.words.split()),
                    cosine=None if vector is None else float(row.vector @ vector[0]),
                    file=names[row.file_id],
                    file_id=row.file_id,
                    page=row.page,
                    heading=row.heading,
                )
                for row in rows
                if row.file_id in names
            }
        # In one order on every store, so that equal scores come out alike.
        return Candidates([found[i] for i in sorted(found)], total, frequency)

    def neighbours(self, ids: Sequence[int]) -> dict[int, Neighbours]:
        place = (passages.c.file_id, passages.c.position, passages.c.page, passages.c.heading)
        with self._db.read() as db:
            here = {row.id: row for row in db.execute(select(passages.c.id, *place).where(passages.c.id.in_(ids)))}
            near = [
                (passages.c.file_id == row.file_id) & passages.c.position.in_([row.position - 1, row.position + 1])
                for row in here.values()
            ]
            rows = db.execute(select(passages.c.id, passages.c.text, *place).where(or_(false(), *near))).all()
        beside = {(row.file_id, row.position, row.page, row.heading): row for row in rows}
        found = {}
        for i, row in here.items():
            before, after = (beside.get((row.file_id, row.position + step, row.page, row.heading)) for step in (-1, 1))
            found[i] = Neighbours(
                before.text if before else "",
                after.text if after else "",
                str(before.id) if before else "",
                str(after.id) if after else "",
            )
        return found


def _slot(db: Connection, model: str) -> int:
    """The place for vectors that is searched. Raises ModelChanged when they are not of this model."""
    slot, name = serving_slot(db)
    if model and model != name:
        raise ModelChanged
    return slot
