"""Which store keeps the documents: the embedded one, or the one that several apps share."""

from __future__ import annotations

from pathlib import Path

from rag.sql_store import SqlStore


def open_store(data_dir: Path, database_url: str) -> SqlStore:
    """The store of these settings. Raises QuartetError when it cannot be used."""
    if database_url:
        from rag.postgres_store import PostgresStore  # here: its driver is needed by nobody else

        return PostgresStore(database_url)
    from rag.sqlite_store import SqliteStore

    return SqliteStore(data_dir)
