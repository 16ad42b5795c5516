"""Rows of the shared tables as values, and the queries that several places ask. Knows no SQL dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, select

from backends.errors import NotFound
from rag.owners import name_of
from rag.store import Job, embedding_models, files, knowledge_bases, settings
from rag.types import FileRecord

WORD = 200  # characters; a longer word is nobody's question, and databases limit what they index
UNFINISHED = ("uploaded", "parsing", "embedding")
QUEUED = {
    "state": "uploaded", "passages": 0, "progress": 0.0, "reason": "", "error": "", "claimed_by": None,
    "claimed_until": None, "rate": 0.0,
}  # fmt: skip
JOBS = (
    select(knowledge_bases.c.name.label("base"), files.c.id, files.c.renews, files.c.name, files.c.state)
    .join(files)
    .where(files.c.state.in_(UNFINISHED))
    .order_by(files.c.number)
)


def job_of(row: Any) -> Job:
    return Job(row.base, row.id, row.renews or row.id, row.name, parsed=row.state == "embedding")


def serving_slot(db: Connection) -> tuple[int, str]:
    """Which of the places for vectors is searched, and the name of their model; "" before there is one."""
    query = select(embedding_models.c.slot, embedding_models.c.name).where(embedding_models.c.state == "serving")
    row = db.execute(query).one_or_none()
    return (row.slot, row.name) if row else (0, "")


def models_stay(db: Connection) -> None:
    """Nobody else changes the table of models until this transaction ends."""
    db.execute(select(settings.c.value).where(settings.c.name == "layout").with_for_update())


def short(words: Sequence[str]) -> list[str]:
    return [word[:WORD].replace("\0", "") for word in words if word.strip("\0")]


def base_id_of(db: Connection, name: str, lock: bool = False) -> int:
    query = select(knowledge_bases.c.id).where(knowledge_bases.c.name == name)
    base_id: int | None = db.scalar(query.with_for_update() if lock else query)
    if base_id is None:
        raise _unknown(name)
    return base_id


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"There is no knowledge base named “{name_of(name)}”; create it first, or choose one from the list."
    )


@dataclass(frozen=True)
class Searched:
    """What a search looks at, of one moment: `version` of a base, and the vectors in the place `slot`, which are of
    `model` ("" before there is one)."""

    base_id: int
    version: int
    slot: int
    model: str


_SEARCHED = (
    select(
        knowledge_bases.c.id,
        knowledge_bases.c.version,
        func.coalesce(embedding_models.c.slot, 0),
        func.coalesce(embedding_models.c.name, ""),
    )
    .join_from(knowledge_bases, embedding_models, embedding_models.c.state == "serving", isouter=True)
    .where(knowledge_bases.c.name == bindparam("name"))
)


def searched(db: Connection, name: str) -> Searched:
    row = db.execute(_SEARCHED, {"name": name}).one_or_none()
    if row is None:
        raise _unknown(name)
    return Searched(*row)


def file_row(db: Connection, base_id: int, file_id: str) -> Row[Any]:
    row = db.execute(
        select(files).where(files.c.id == file_id, files.c.base_id == base_id, files.c.renews.is_(None))
    ).one_or_none()
    if row is None:
        raise NotFound("This knowledge base has no such file; it may have been deleted or replaced.")
    return row


def records_of(db: Connection, which: ColumnElement[bool]) -> list[FileRecord]:
    """Files in order of arrival; what is read again tells how far that is."""
    rows = db.execute(select(files).where(which, files.c.renews.is_(None)).order_by(files.c.number)).all()
    again = select(files).where(files.c.renews.in_(select(files.c.id).where(which)))
    readings = {row.renews: row for row in db.execute(again)}
    return [_record(row, readings.get(row.id)) for row in rows]


def _record(row: Row[Any], reading: Row[Any] | None) -> FileRecord:
    fields = ("id", "name", "state", "size", "pages", "passages", "progress", "reason", "error", "created_at")
    values = {field: getattr(row, field) for field in fields}
    under_way = reading or row
    if reading:
        values |= {"reindexing": reading.state, "progress": reading.progress}
    if under_way.state == "embedding" and under_way.rate and under_way.progress:
        left = under_way.passages * (1 / under_way.progress - 1) / under_way.rate
        values |= {"passages_per_second": round(under_way.rate, 1), "seconds_left": round(left, 1)}
    return FileRecord(**values)
