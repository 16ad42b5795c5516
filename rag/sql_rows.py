"""Rows of the shared tables as values, and the queries that several places ask. Knows no SQL dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from backends.errors import NotFound
from rag.store import Job, embedding_models, files, knowledge_bases
from rag.types import FileRecord

WORD = 200  # characters; a longer word is nobody's question, and databases limit what they index
UNFINISHED = ("uploaded", "parsing", "embedding")
QUEUED = {
    "state": "uploaded", "passages": 0, "progress": 0.0, "reason": "", "error": "", "claimed_by": None,
    "claimed_until": None,
}  # fmt: skip
JOBS = (
    select(knowledge_bases.c.name.label("base"), files.c.id, files.c.name, files.c.state)
    .join(files)
    .where(files.c.state.in_(UNFINISHED))
    .order_by(files.c.number)
)


def job_of(row: Any) -> Job:
    return Job(row.base, row.id, row.name, parsed=row.state == "embedding")


def serving_slot(db: Connection) -> tuple[int, str]:
    """Which of the places for vectors is searched, and the name of their model; "" before there is one."""
    query = select(embedding_models.c.slot, embedding_models.c.name).where(embedding_models.c.state == "serving")
    row = db.execute(query).one_or_none()
    return (row.slot, row.name) if row else (0, "")


def short(words: Sequence[str]) -> list[str]:
    return [word[:WORD].replace("\0", "") for word in words if word.strip("\0")]


def base_id_of(db: Connection, name: str, lock: bool = False) -> int:
    query = select(knowledge_bases.c.id).where(knowledge_bases.c.name == name)
    base_id: int | None = db.scalar(query.with_for_update() if lock else query)
    if base_id is None:
        raise NotFound(f"There is no knowledge base named “{name}”; create it first, or choose one from the list.")
    return base_id


def file_row(db: Connection, base_id: int, file_id: str) -> Row[Any]:
    row = db.execute(select(files).where(files.c.id == file_id, files.c.base_id == base_id)).one_or_none()
    if row is None:
        raise NotFound("This knowledge base has no such file; it may have been deleted or replaced.")
    return row


def record_of(row: Row[Any]) -> FileRecord:
    fields = ("id", "name", "state", "size", "pages", "passages", "progress", "reason", "error", "created_at")
    return FileRecord(**{field: getattr(row, field) for field in fields})
