"""What both stores have in common: all of a Store but how words and vectors are searched. Knows no SQL dialect.

The subclass says how passages are filed for keyword search and how the nearest vectors are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, Table, bindparam, false, func, or_, select

from rag.errors import ModelChanged
from rag.ranking import Candidate, Candidates
from rag.sql_bases import SqlBases
from rag.sql_files import SqlFiles
from rag.sql_models import SqlModels
from rag.sql_parts import Database
from rag.sql_queue import SqlQueue
from rag.sql_rows import Searched, searched, short
from rag.store import Vectors, files, passages, vector_slots
from rag.types import Neighbours

_FILE_NAMES = (
    select(files.c.id, files.c.name)
    .where(files.c.base_id == bindparam("base"), files.c.state == "searchable")
    .where(files.c.id.in_(bindparam("ids", expanding=True)))
)


def _with_vectors(vectors: Table) -> Select[Any]:
    return (
        select(
            passages.c.id, passages.c.file_id, passages.c.text, passages.c.words, passages.c.page, passages.c.heading,
            vectors.c.vector,
        )
        .join(vectors, vectors.c.passage_id == passages.c.id)
        .where(passages.c.id.in_(bindparam("ids", expanding=True)))
        .order_by(passages.c.id)  # so that equal scores come out alike on every store
    )  # fmt: skip


_PASSAGES = tuple(map(_with_vectors, vector_slots))


class SqlStore(SqlBases, SqlFiles, SqlQueue, SqlModels):
    """A Store over `database`, but for what the subclass adds."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._totals: dict[int, tuple[int, int]] = {}  # of a base: its version, and how many passages that has

    # ---- search

    def candidates(
        self, base: str, words: Sequence[str], vector: Vectors | None, limit: int, model: str = ""
    ) -> Candidates:
        while True:
            with self._db.read() as db:
                here = searched(db, base)
                if vector is not None and model and model != here.model:
                    raise ModelChanged
                near = [] if vector is None else self._nearest(db, here, vector, limit)
                if near is not None:
                    return self._candidates(db, here, words, vector, near, limit)
            self._get_ready(here)  # outside of the transaction: it may wait for others to commit

    def _candidates(
        self, db: Connection, base: Searched, words: Sequence[str], vector: Vectors | None, near: list[int], limit: int
    ) -> Candidates:
        total = self._total(db, base)
        frequency, matching = self._by_words(db, base, short(words), limit, total)
        rows = db.execute(_PASSAGES[base.slot], {"ids": list({*matching, *near})}).all()
        # Asked apart: given all three tables, SQLite goes through every passage of the base to find these.
        ids = list({row[1] for row in rows})
        names = dict(db.execute(_FILE_NAMES, {"base": base.base_id, "ids": ids}).all())
        cosines: list[float | None] = [None] * len(rows)
        if vector is not None and rows:
            cosines = (np.stack([row[6] for row in rows]) @ vector[0]).tolist()
        found = [
            Candidate(passage_id, text, its_words, cosine, names[file_id], file_id, page, heading)
            for (passage_id, file_id, text, its_words, page, heading, _), cosine in zip(rows, cosines, strict=True)
            if file_id in names
        ]
        return Candidates(found, total, frequency)

    def _total(self, db: Connection, base: Searched) -> int:
        """How many passages can be found in the base."""
        version, total = self._totals.get(base.base_id, (-1, 0))
        if version != base.version:
            searchable = (files.c.base_id == base.base_id) & (files.c.state == "searchable")
            total = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
            self._totals[base.base_id] = base.version, total
        return total

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
