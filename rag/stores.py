"""Which store keeps the documents: the embedded one, or the one that several apps share."""

from __future__ import annotations

from pathlib import Path

from backends.errors import QuartetError
from rag.sql_store import SqlStore


def open_store(data_dir: Path, database_url: str) -> SqlStore:
    """The store of these settings. Raises QuartetError when it cannot be used, or was lost."""
    if database_url:
        from rag.postgres_store import PostgresStore  # here: its driver is needed by nobody else

        return PostgresStore(database_url)
    from rag.sqlite_store import SqliteStore

    _check_not_lost(data_dir / "quartet.db", data_dir / "files")
    return SqliteStore(data_dir)


def _check_not_lost(database: Path, files: Path) -> None:
    """Raises QuartetError for documents without their database: with a new one they would be nobody's, and swept."""
    parts = [database, database.with_name(f"{database.name}-wal")]
    if files.is_dir() and any(files.iterdir()) and not any(part.exists() and part.stat().st_size for part in parts):
        raise QuartetError(
            f"The database {database} is missing or empty, but there are documents in {files}. Put a backup in its "
            "place, or move that folder away and upload the documents again."
        )
