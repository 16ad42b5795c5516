"""What both stores have in common: all of a Store but how words and vectors are searched. Knows no SQL dialect.

The subclass says how passages are filed for keyword search and how the nearest vectors are found.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete as delete_from
from sqlalchemy import func, insert, select, update

from rag.ranking import Candidate, Candidates
from rag.sql_bases import SqlBases
from rag.sql_files import SqlFiles
from rag.sql_queue import SqlQueue
from rag.sql_rows import base_id_of, short
from rag.store import Vectors, files, knowledge_bases, passages, settings, vectors


class SqlStore(SqlBases, SqlFiles, SqlQueue):
    """A Store over `database`, but for what the subclass adds."""

    # ---- the embedding model

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
                self._unfile_words(db, base_id, file_id)
            db.execute(
                update(files)
                .where(files.c.state.in_(["searchable", "embedding"]))
                .values(state="embedding", progress=0.0, passages=0)
            )
            db.execute(update(knowledge_bases).values(version=knowledge_bases.c.version + 1))

    def embedding_model(self) -> str | None:
        """Whose vectors these are; None before the first use."""
        with self._db.read() as db:
            return db.scalar(select(settings.c.value).where(settings.c.name == "embedding_model"))

    # ---- search

    def candidates(self, base: str, words: Sequence[str], vector: Vectors | None, limit: int) -> Candidates:
        with self._db.read() as db:
            base_id = base_id_of(db, base)
        near = self._nearest(base_id, vector, limit) if vector is not None else []
        with self._db.read() as db:
            base_id = base_id_of(db, base)
            searchable = (files.c.base_id == base_id) & (files.c.state == "searchable")
            total = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
            frequency, matching = self._by_words(db, base_id, short(words), limit, total)
            rows = db.execute(
                select(passages, vectors.c.vector).join(vectors).where(passages.c.id.in_({*matching, *near}))
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
