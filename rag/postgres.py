"""A PostgreSQL database: how it is reached, prepared once by whoever comes first, read and written. Knows no table.

Connections that were lost are made again; until then every call raises StorageUnreachable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from backends.errors import Busy, QuartetError, StorageFull, StorageUnreachable
from rag.schema import prepare

_log = logging.getLogger(__name__)

_PREPARING = 0x51756172746574  # the advisory lock under which tables are made: "Quartet" in hex
_DISK_FULL, _NOT_NOW = ("53100", "53200"), ("40001", "40P01", "55P03")  # SQLSTATE; conflicts of transactions


class PostgresDatabase:
    """Makes `tables` and runs `statements` (each may be run again) unless they are there. Raises QuartetError for an
    address that is none, a database without pgvector or without the right to make tables."""

    def __init__(self, url: str, tables: Sequence[Table], statements: Sequence[str]) -> None:
        self._engine = _open(url)
        try:
            with self.write() as db:
                # Two apps that start at once must not both make the tables; the lock ends with the transaction.
                db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PREPARING})
                if not db.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")):
                    db.execute(text("CREATE EXTENSION vector"))
                prepare(db, tables)
                for statement in statements:
                    db.execute(text(statement))
        except DBAPIError as error:
            self.close()
            _log.info("preparing the database: %s", error.orig)
            raise QuartetError(
                f"The database {self.label} cannot be used ({_reason(error)}). It needs the extension pgvector, and a "
                "user who may make tables."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def label(self) -> str:
        """The address without user and password."""
        url = self._engine.url
        return f"{url.database} at {url.host or url.query.get('host') or 'this machine'}"

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """All that is read in it is of one moment."""
        one_moment = {"isolation_level": "REPEATABLE READ"}
        with self._told(), self._engine.connect().execution_options(**one_moment) as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed at its end, or not at all. Raises StorageFull when the disk there has no room."""
        with self._told(), self._engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """A connection outside of transactions, for what PostgreSQL does only there."""
        with self._told(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            yield db

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the database, as an error that says what to do."""
        try:
            yield
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state in _DISK_FULL:
                raise StorageFull("The disk of the database is full; free some space there and try again.") from error
            if state in _NOT_NOW:
                raise Busy("The database is busy with another change; try again.", retry_after=1) from error
            lost = error.connection_invalidated or (state or "08000")[:2] in ("08", "28", "57", "3D")
            if isinstance(error, OperationalError | InterfaceError) and lost:
                _log.info("the database is out of reach: %s", error.orig)
                raise StorageUnreachable(
                    f"The database {self.label} does not answer ({_reason(error)}). Start it, or check --database-url; "
                    "nothing is lost, and the service goes on when it is back."
                ) from error
            raise


def _reason(error: DBAPIError) -> str:
    """The first line of what the driver said; it names no password."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return lines[0][:200]


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"connect_timeout": 10, "keepalives_idle": 30, "application_name": "quartet"}
        # A connection is tried before it is used, so that one that was lost is replaced and nobody hears of it.
        return create_engine(
            parsed, pool_pre_ping=True, pool_size=8, max_overflow=24, pool_timeout=30, connect_args=options
        )
    except (ArgumentError, NoSuchModuleError, ValueError, ImportError):
        raise QuartetError(
            "The address in --database-url is none: write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
        ) from None
