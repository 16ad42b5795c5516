"""One SQLite file: how it is opened, checked, read and written. Knows no table.

Many readers, one writer at a time; a commit is on the disk when it returns. The process may be killed at any moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.exc import DatabaseError

from backends.errors import QuartetError, StorageFull
from rag.schema import prepare

_log = logging.getLogger(__name__)
_CHECKED_FIRST = 256 * 1024 * 1024  # bytes; to check more takes longer than a start may
_SETTINGS = (
    "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON",
    "cache_size=-16384",  # KiB for each connection; a search in 100,000 passages reads several hundred pages
)  # fmt: skip


class Database:
    """Makes the file and `tables` where they are missing. Raises QuartetError when it is damaged, or of a later
    version; the check of a large file goes on while it is used, and if it fails every `read` and `write` raises."""

    def __init__(self, file: Path, tables: Sequence[Table]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = file
        self._engine = _open(file)
        self._writing = threading.Lock()
        self._closing = False
        self._checked = True
        self._checking: threading.Thread | None = None
        self._damage: QuartetError | None = None  # found by the check of a large file, while it is in use
        if missing := _cut_off(file):
            raise self._damaged(f"its last {missing} bytes are missing")
        try:
            with self.write() as db:
                prepare(db, tables)
            large = file.stat().st_size > _CHECKED_FIRST
            problem = "ok" if large else self._check()
        except DatabaseError as error:
            problem = str(error.orig)
        except BaseException:
            self.close()
            raise
        if problem != "ok":
            self.close()
            raise self._damaged(problem)
        if large:
            self._checked = False
            self._checking = threading.Thread(target=self._check_meanwhile, name="integrity-check", daemon=True)
            self._checking.start()

    def _check(self) -> str:
        with self._engine.connect() as db:
            connection: Any = db.connection.driver_connection
            # It asks now and then whether to go on: at the end of the app nobody waits for it.
            connection.set_progress_handler(lambda: self._closing, 100_000)
            try:
                return str(db.execute(text("PRAGMA quick_check(1)")).scalar())
            finally:
                connection.set_progress_handler(None, 0)

    def _check_meanwhile(self) -> None:
        try:
            problem = self._check()
        except DatabaseError as error:
            problem = str(error.orig)
        if self._closing:
            return
        if problem != "ok":
            self._damage = self._damaged(problem)
            _log.error("%s", self._damage)
        self._checked = True
        self.forget()

    def _damaged(self, problem: str) -> QuartetError:
        return QuartetError(
            f"The database {self._path} is damaged ({' '.join(problem.split())}). Put a backup in its place, or start "
            "with another --data-dir and upload the documents again."
        )

    def close(self) -> None:
        self._closing = True
        if self._checking:
            self._checking.join()
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """All that is read in it is of one moment."""
        if self._damage:
            raise self._damage
        with self._engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed at its end, or not at all. Raises StorageFull when the disk has no room."""
        if self._damage:
            raise self._damage
        try:
            with self._writing, self._engine.connect().execution_options(write=True) as db, db.begin():
                yield db
        except DatabaseError as error:
            if "full" in str(error.orig) or "disk I/O" in str(error.orig):
                raise StorageFull("The disk has no room for the documents; free some space and try again.") from error
            raise

    def forget(self) -> None:
        """What was deleted leaves the write-ahead log too; a reader under way makes it wait for the next time."""
        if not self._checked:  # that reader takes long, and everybody would wait; it does this at its end
            return
        with self._engine.connect() as db:
            db.execution_options(isolation_level="AUTOCOMMIT").execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _cut_off(file: Path) -> int:
    """How many bytes the file lacks of the size that its header tells (section 1.3 of SQLite's file format); SQLite
    reads what is missing as zeros. While the log beside it holds pages, they may be to come: then 0."""
    log = file.with_name(f"{file.name}-wal")
    if not file.exists() or (log.exists() and log.stat().st_size):
        return 0
    with file.open("rb") as raw:
        header = raw.read(32)
    if len(header) < 32 or not header.startswith(b"SQLite format 3"):
        return 0
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    return max(0, pages * (65_536 if page == 1 else page) - file.stat().st_size)


def _open(file: Path) -> Engine:
    # Last in, first out: what few readers ask finds its pages with the few connections that read them last.
    engine = create_engine(
        f"sqlite:///{file}", pool_size=8, max_overflow=56, pool_use_lifo=True,
        connect_args={"check_same_thread": False, "timeout": 30},
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        # A transaction that will write takes the lock at once: a read that turns into a write may be refused later.
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("write") else "BEGIN")

    return engine
