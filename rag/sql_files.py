"""The files of the knowledge bases in a store in SQL: taken, listed, deleted. Knows nothing of how they are read."""

from __future__ import annotations

import datetime
from pathlib import Path

from sqlalchemy import insert, select, update

from backends.errors import NotFound
from rag.sql_parts import SqlPart
from rag.sql_rows import QUEUED, base_id_of, file_row, record_of
from rag.store import NewFile, files
from rag.types import FileRecord


class SqlFiles(SqlPart):
    """The part of a Store that has the files."""

    def add_file(self, base: str, file: NewFile, content: Path | None = None) -> FileRecord:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
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
                        **QUEUED,
                    )
                )
                if content is not None:
                    self._keep(db, file.id, content)
            elif same.state == "failed":
                db.execute(update(files).where(files.c.id == same.id).values(**QUEUED))
            return record_of(file_row(db, base_id, file.id if same is None else same.id))

    def files(self, base: str) -> list[FileRecord]:
        with self._db.read() as db:
            query = select(files).where(files.c.base_id == base_id_of(db, base)).order_by(files.c.number)
            return [record_of(row) for row in db.execute(query)]

    def file(self, base: str, file_id: str) -> FileRecord:
        with self._db.read() as db:
            return record_of(file_row(db, base_id_of(db, base), file_id))

    def delete_file(self, base: str, file_id: str) -> None:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            file_row(db, base_id, file_id)
            version, removed = self._delete(db, base_id, [file_id])
        self._changed(base_id, version, removed=removed)
        self._forget()

    def file_ids(self) -> set[str]:
        with self._db.read() as db:
            return set(db.scalars(select(files.c.id)))

    def read_content(self, file_id: str, target: Path) -> None:
        raise NotFound("This store keeps no files; they are in the data folder.")
