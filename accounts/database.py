"""Where accounts are kept: a file of the data folder, or the PostgreSQL that several Quartets share.

A Quartet and its commands may have it open at the same time. Everything here blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, NoSuchModuleError

from accounts.tables import metadata
from backends.errors import QuartetError, StorageFull, StorageUnreachable

_log = logging.getLogger(__name__)
_PREPARING = 0x4163636F756E7473  # the advisory lock under which tables are made: "Accounts" in hex
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


class AccountsDatabase:
    """Makes the tables where they are missing. Raises QuartetError when it cannot be used."""

    def __init__(self, file: Path, url: str) -> None:
        """`url` is the address of a PostgreSQL; "" keeps everything in `file`."""
        self._engine = _postgres(url) if url else _sqlite(file)
        try:
            with self.write() as db:
                if url:  # two that start at once must not both make them; the lock ends with the transaction
                    db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PREPARING})
                metadata.create_all(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _told(), self._engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed at its end, or not at all."""
        with _told(), self._engine.connect().execution_options(write=True) as db, db.begin():
            yield db


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with the database, as a sentence; it names no password."""
    try:
        yield
    except DBAPIError as error:
        said = str(error.orig)
        if "is full" in said or "disk I/O" in said:
            raise StorageFull("The disk has no room for accounts; free some space and try again.") from error
        if error.connection_invalidated or (
            isinstance(error, DatabaseError) and getattr(error.orig, "sqlstate", "") is None
        ):
            _log.info("the database of accounts is out of reach: %s", said)
            raise StorageUnreachable(
                "The database of accounts does not answer: start it, or check --database-url; nobody is let in until "
                "it is back."
            ) from error
        if "malformed" in said or "not a database" in said:
            raise QuartetError(
                "The file accounts.db in the data folder is damaged: put a backup in its place, or move it away and "
                "make the accounts again."
            ) from error
        raise


def _postgres(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        options = {"connect_timeout": 10, "keepalives_idle": 30, "application_name": "quartet accounts"}
        return create_engine(parsed, pool_pre_ping=True, pool_size=2, max_overflow=6, connect_args=options)
    except (ArgumentError, NoSuchModuleError, ValueError, ImportError):
        raise QuartetError(
            "The address in --database-url is none: write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
        ) from None


def _sqlite(file: Path) -> Engine:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(f"sqlite:///{file}", connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # BEGIN is said below
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        # The lock for writing is taken at once: what was read before a write must still be true then.
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("write") else "BEGIN")

    return engine
