"""The files of the knowledge bases in a store in SQL: taken, listed, deleted. Knows nothing of how they are read."""

from __future__ import annotations

import datetime
from pathlib import Path

from sqlalchemy import delete as delete_from
from sqlalchemy import insert, select, update

from backends.errors import NotFound
from rag.sql_parts import SqlPart
from rag.sql_rows import QUEUED, base_id_of, file_row, records_of
from rag.store import NewFile, files, successors
from rag.types import FileRecord


class SqlFiles(SqlPart):
    """The part of a Store that has the files."""

    def add_file(self, base: str, file: NewFile, content: Path | None = None) -> tuple[FileRecord, list[str]]:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            same = db.execute(
                select(files).where(files.c.base_id == base_id, files.c.sha256 == file.sha256)
            ).one_or_none()
            file_id = file.id if same is None else same.id
            if same is not None and same.state == "failed":
                db.execute(delete_from(files).where(files.c.id == file_id))
                same = None
            if same is None:
                db.execute(
                    insert(files).values(
                        id=file_id,
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
                    self._keep(db, file_id, content)
            (record,) = records_of(db, files.c.id == file_id)
            gone: list[str] = []
            if record.name != file.name:
                old = select(files.c.id).where(files.c.base_id == base_id, files.c.name == file.name)
                outdated = list(db.scalars(old.where(files.c.renews.is_(None))))
                if record.state == "searchable":
                    gone = outdated
                    version, removed = self._delete(db, base_id, gone)
                elif outdated:
                    db.execute(delete_from(successors).where(successors.c.file_id.in_(outdated)))
                    db.execute(insert(successors), [{"file_id": i, "successor": record.id} for i in outdated])
        if gone:
            self._changed(base_id, version, removed=removed)
            self._forget()
        return record, gone

    def files(self, base: str) -> list[FileRecord]:
        with self._db.read() as db:
            return records_of(db, files.c.base_id == base_id_of(db, base))

    def file(self, base: str, file_id: str) -> FileRecord:
        with self._db.read() as db:
            row = file_row(db, base_id_of(db, base), file_id)
            (record,) = records_of(db, files.c.id == row.id)
            return record

    def reindex(self, base: str, file_id: str, reading: str) -> FileRecord:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            row = file_row(db, base_id, file_id)
            under_way = db.scalar(select(files.c.id).where(files.c.renews == file_id))
            if row.state == "failed":
                db.execute(update(files).where(files.c.id == file_id).values(**QUEUED))
            elif row.state == "searchable" and under_way is None:
                same = {name: getattr(row, name) for name in ("base_id", "name", "size", "created_at")}
                sha256 = f"renews {file_id}"  # that of the bytes is the file's own
                db.execute(insert(files).values(id=reading, sha256=sha256, renews=file_id, **same, **QUEUED))
            (record,) = records_of(db, files.c.id == file_id)
            return record

    def delete_file(self, base: str, file_id: str) -> None:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            file_row(db, base_id, file_id)
            version, removed = self._delete(db, base_id, [file_id])
        self._changed(base_id, version, removed=removed)
        self._forget()

    def file_ids(self) -> set[str]:
        with self._db.read() as db:
            return set(db.scalars(select(files.c.id).where(files.c.renews.is_(None))))

    def read_content(self, file_id: str, target: Path) -> None:
        raise NotFound("This store keeps no files; they are in the data folder.")
