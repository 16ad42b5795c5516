"""The knowledge bases of a store in SQL, made and deleted, taken out and put in as a whole. Knows no SQL dialect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, insert, select
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from backends.errors import Conflict
from rag import sql_whole
from rag.owners import name_of, owner_of
from rag.sql_parts import SqlPart
from rag.sql_rows import base_id_of, models_stay, serving_slot
from rag.store import Vectors, files, knowledge_bases
from rag.types import KnowledgeBase


class SqlBases(SqlPart):
    """The part of a Store that has the knowledge bases."""

    def bases(self) -> list[KnowledgeBase]:
        query = (
            select(knowledge_bases.c.name, func.count(files.c.id), func.coalesce(func.sum(files.c.passages), 0))
            .outerjoin(files, (files.c.base_id == knowledge_bases.c.id) & files.c.renews.is_(None))
            .group_by(knowledge_bases.c.id)
            .order_by(knowledge_bases.c.id)
        )
        with self._db.read() as db:
            return [_base(*row) for row in db.execute(query)]

    def has_base(self, name: str) -> bool:
        with self._db.read() as db:
            return db.scalar(select(knowledge_bases.c.id).where(knowledge_bases.c.name == name)) is not None

    def create_base(self, name: str) -> KnowledgeBase:
        with self._new_base(name):
            return _base(name, 0, 0)

    @contextmanager
    def _new_base(self, name: str) -> Iterator[tuple[Connection, int]]:
        """The transaction and the id of a base that is being made. Raises Conflict when there is one of this name."""
        try:
            with self._db.write() as db:
                db.execute(insert(knowledge_bases).values(name=name, version=0))
                base_id = base_id_of(db, name)
                self._base_made(db, base_id)
                yield db, base_id
        except IntegrityError:
            raise Conflict(f"There is already a knowledge base named “{name_of(name)}”; choose another name.") from None

    def delete_base(self, name: str) -> list[str]:
        with self._db.write() as db:
            base_id = base_id_of(db, name, lock=True)
            gone = list(db.scalars(select(files.c.id).where(files.c.base_id == base_id)))
            self._base_going(db, base_id)
            db.execute(delete_from(knowledge_bases).where(knowledge_bases.c.id == base_id))
        self._base_gone(base_id)
        self._forget()
        return gone

    def add_whole_base(self, name: str, whole: sql_whole.Whole, model: str) -> bool:
        """A new base with all its files, or nothing. Raises Conflict when there is one of this name.

        Returns whether the vectors, which are of `model`, are of the one in service; if not, the passages are left out
        and the files are queued."""
        with self._new_base(name) as (db, base_id):
            models_stay(db)  # until the vectors are where this one's belong
            fits = model == serving_slot(db)[1] != ""
            for file in whole:
                if sql_whole.add_file(db, base_id, file if fits else sql_whole.unread(file)):
                    self._file_words(db, base_id, file[0].id)
                self._keep(db, file[0].id, file[4])
            version = sql_whole.changed(db, base_id)
        self._changed(base_id, version, added="")
        return fits

    def whole_file(self, file_id: str, model: str) -> tuple[str, list[sql_whole.Passage], Vectors]:
        """The SHA-256 of a file's bytes in hex, its passages in order, and their vectors, which are of `model`. Raises
        ModelChanged when that is not in service."""
        with self._db.read() as db:
            return sql_whole.whole_file(db, file_id, model)


def _base(key: str, files: int, passages: int) -> KnowledgeBase:
    return KnowledgeBase(name_of(key), files, passages, owner_of(key))
