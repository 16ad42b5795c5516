"""Knowledge bases in and out of a store as a whole, for rag.transfer. Knows no SQL dialect and no archive."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, insert, select, update

from rag.errors import ModelChanged
from rag.sql_rows import QUEUED, serving_slot, short
from rag.store import NewFile, Vectors, files, knowledge_bases, passages, vector_slots

Passage = tuple[str, str, int | None, str]  # text, words, page, heading
# The file, its pages, its note, when it came, its bytes, its passages in order and a row of vectors for each.
WholeFile = tuple[NewFile, int | None, str, str, Path, list[Passage], Vectors]
Whole = Iterable[WholeFile]
_CHUNK = 1000  # rows in one statement


def whole_file(db: Connection, file_id: str, model: str) -> tuple[str, list[Passage], Vectors]:
    """The SHA-256 of a file's bytes in hex, its passages in order, and their vectors, which are of `model`. Raises
    ModelChanged when that is not in service."""
    digest = db.scalar(select(files.c.sha256).where(files.c.id == file_id)) or ""
    slot, name = serving_slot(db)
    if name != model:
        raise ModelChanged
    vectors = vector_slots[slot]
    query = (
        select(passages.c.text, passages.c.words, passages.c.page, passages.c.heading, vectors.c.vector)
        .join(vectors, vectors.c.passage_id == passages.c.id)
        .where(passages.c.file_id == file_id)
        .order_by(passages.c.position)
    )
    rows = db.execute(query).all()
    found = [(row.text, row.words, row.page, row.heading) for row in rows]
    return digest, found, np.stack([row.vector for row in rows]) if rows else np.empty((0, 0), np.float32)


def add_file(db: Connection, base_id: int, whole: WholeFile) -> bool:
    """Stores a file, searchable when it has passages and else queued. Returns whether its words are to be filed."""
    new, pages, note, created_at, _, found, rows = whole
    state = {**QUEUED, "state": "searchable", "progress": 1.0, "passages": len(found), "error": note}
    db.execute(
        insert(files).values(
            id=new.id, base_id=base_id, name=new.name, size=new.size, sha256=new.sha256, created_at=created_at,
            pages=pages if found else None, **(state if found else QUEUED),
        )
    )  # fmt: skip
    for start in range(0, len(found), _CHUNK):
        stored = [
            {
                "file_id": new.id, "position": position, "text": text, "words": " ".join(short(words.split())),
                "page": page, "heading": heading,
            }
            for position, (text, words, page, heading) in enumerate(found[start : start + _CHUNK], start)
        ]  # fmt: skip
        db.execute(insert(passages), stored)
        of_file = select(passages.c.position, passages.c.id).where(passages.c.file_id == new.id)
        ids = db.execute(of_file.where(passages.c.position >= start)).all()
        db.execute(
            insert(vector_slots[serving_slot(db)[0]]),
            [{"passage_id": i, "base_id": base_id, "vector": np.asarray(rows[at], np.float32)} for at, i in ids],
        )
    return bool(found)


def unread(whole: WholeFile) -> WholeFile:
    """The file as if nobody had read it yet."""
    new, _, _, created_at, content, _, rows = whole
    return new, None, "", created_at, content, [], rows[:0]


def changed(db: Connection, base_id: int) -> int:
    """The next version of a base."""
    version: int | None = db.scalar(
        update(knowledge_bases)
        .where(knowledge_bases.c.id == base_id)
        .values(version=knowledge_bases.c.version + 1)
        .returning(knowledge_bases.c.version)
    )
    assert version is not None  # noqa: S101  the base was there a moment ago
    return version
