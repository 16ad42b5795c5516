"""What the parts of a store in SQL stand on: transactions, and what each dialect says for itself. Knows no SQL dialect.

The parts are rag.sql_bases, sql_files and sql_queue; rag.sql_store puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Table, or_, select
from sqlalchemy import delete as delete_from

from rag import sql_whole
from rag.sql_rows import Searched
from rag.store import Vectors, files, passages


class Database(Protocol):
    """Transactions. What is read in one `read` is of one moment; a `write` is committed at its end or not at all."""

    def read(self) -> AbstractContextManager[Connection]: ...
    def write(self) -> AbstractContextManager[Connection]: ...
    def close(self) -> None: ...


class SqlPart:
    """A part of a store over `database`: all but what the subclass of a dialect says."""

    keeps_bytes = False

    def __init__(self, database: Database) -> None:
        self._db = database

    def close(self) -> None:
        self._db.close()

    def _now(self, db: Connection) -> float:
        """Seconds since 1970 by the clock that all who share the store look at."""
        raise NotImplementedError

    def _base_made(self, db: Connection, base_id: int) -> None:
        raise NotImplementedError

    def _base_going(self, db: Connection, base_id: int) -> None:
        raise NotImplementedError

    def _base_gone(self, base_id: int) -> None:
        """A commit deleted the base."""

    def _file_words(self, db: Connection, base_id: int, file_id: str) -> None:
        """Makes the stored passages of a file findable by their words."""
        raise NotImplementedError

    def _unfile_words(self, db: Connection, base_id: int, file_id: str) -> None:
        raise NotImplementedError

    def _by_words(
        self, db: Connection, base: Searched, words: Sequence[str], limit: int, total: int
    ) -> tuple[dict[str, int], list[int]]:
        """In how many of the `total` passages each word is (not those that are in none), and the `limit` best."""
        raise NotImplementedError

    def _nearest(self, db: Connection, base: Searched, vector: Vectors, limit: int) -> list[int] | None:
        """The nearest passages of a base by its vectors; None when `_get_ready` must be called first."""
        raise NotImplementedError

    def _get_ready(self, base: Searched) -> None:
        """Makes what searches by vector need, which may take long. Raises ModelChanged when those vectors are not in
        service any more."""

    def _prepare(self, slot: int) -> None:
        """The vectors in `slot` are about to come into service: what searches need of them is made."""

    def _coming(self, db: Connection, slot: int) -> None:
        """In the transaction that puts `slot` into service, before it counts the versions of the bases."""

    def _came(self, slot: int) -> None:
        """The vectors in `slot` are in service now."""

    def _keep(self, db: Connection, file_id: str, content: Path) -> None:
        """Stores the bytes of a file, in a store that keeps them."""

    def _changed(self, base_id: int, version: int, added: str | None = None, removed: Sequence[int] = ()) -> None:
        """A commit made `version` of a base: a file came, passages went."""

    def _forget(self) -> None:
        """Something was deleted that must not stay on the disk."""

    # ---- what several parts do

    def _free(self, db: Connection, table: Table) -> Any:
        """Of rows that are claimed for a while: those that nobody works on."""
        return or_(table.c.claimed_until.is_(None), table.c.claimed_until < self._now(db))

    def _delete(self, db: Connection, base_id: int, ids: Sequence[str]) -> tuple[int, list[int]]:
        """Takes files out of all tables; returns the new version of the base and the passages that were searchable."""
        removed: list[int] = []
        for row in db.execute(select(files.c.id, files.c.state).where(files.c.id.in_(ids))).all():
            if row.state == "searchable":
                removed.extend(db.scalars(select(passages.c.id).where(passages.c.file_id == row.id)))
                self._unfile_words(db, base_id, row.id)
        db.execute(delete_from(files).where(files.c.id.in_(ids)))
        return sql_whole.changed(db, base_id), removed
