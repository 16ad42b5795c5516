"""The embedding models of a store in SQL: which is in service, and the change to another while the first one serves.

The vectors of the next model fill the place that is not in service; one transaction makes it the one that is.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, func, insert, select, update
from sqlalchemy import delete as delete_from

from rag.sql_parts import SqlPart
from rag.sql_rows import models_stay
from rag.store import (
    ModelRecord,
    Vectors,
    embedding_models,
    files,
    knowledge_bases,
    passages,
    vector_slots,
)

_TO_COME = ("waiting", "building")


class SqlModels(SqlPart):
    """The part of a Store that has the embedding models."""

    def models(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        with self._db.read() as db:
            return _models(db)

    def ask_for_model(self, source: str, name: str) -> None:
        with self._db.write() as db:
            models_stay(db)
            serving, other = _models(db)
            if serving and name in (serving.name, "") and (name or serving.source == source):
                _set(db, serving.slot, source=source)
                if other:
                    _set(db, other.slot, state="retired", error="")
            elif name and not db.scalar(select(exists(select(passages.c.id)))):
                db.execute(delete_from(embedding_models))
                db.execute(insert(embedding_models).values(slot=0, source=source, name=name, state="serving"))
            elif not (
                other and other.state in _TO_COME and (other.source, other.name) in ((source, name), (source, ""))
            ):
                slot = 1 - serving.slot if serving else 0
                db.execute(delete_from(embedding_models).where(embedding_models.c.slot == slot))
                db.execute(insert(embedding_models).values(slot=slot, source=source, name=name, state="waiting"))

    def clear_unused(self, limit: int) -> bool:
        with self._db.read() as db:
            if not (slots := self._unused(db)):
                return False
        with self._db.write() as db:
            models_stay(db)
            for slot in slots & self._unused(db):
                some = select(vector_slots[slot].c.passage_id).limit(limit)
                gone = delete_from(vector_slots[slot]).where(vector_slots[slot].c.passage_id.in_(some))
                if not db.execute(gone).rowcount:
                    row = (embedding_models.c.slot == slot) & (embedding_models.c.state == "retired")
                    db.execute(delete_from(embedding_models).where(row))
        return True

    def _unused(self, db: Connection) -> set[int]:
        """Places that have to be emptied, or are retired and empty."""
        states = {row.slot: row.state for row in db.execute(select(embedding_models))}
        filled = {slot for slot in (0, 1) if db.scalar(select(exists(select(vector_slots[slot].c.passage_id))))}
        return {
            slot
            for slot in (0, 1)
            if states.get(slot) == "retired" or (slot in filled and states.get(slot) in ("waiting", "failed"))
        }

    def claim_change(self, owner: str, seconds: float) -> ModelRecord | None:
        with self._db.read() as db:
            if not (other := _models(db)[1]) or other.state not in _TO_COME:
                return None
        with self._db.write() as db:
            models_stay(db)
            # Its own, too: it may have found no way to give it back.
            free = select(embedding_models.c.slot).where(
                self._free(db, embedding_models) | (embedding_models.c.claimed_by == owner)
            )
            _, other = _models(db)
            if not other or other.state not in _TO_COME or other.slot not in set(db.scalars(free)):
                return None
            if other.state == "waiting" and other.slot in self._unused(db):
                return None
            _set(db, other.slot, claimed_by=owner, claimed_until=self._now(db) + seconds)
            return other

    def begin_change(self, owner: str, name: str) -> bool:
        with self._db.write() as db:
            models_stay(db)
            serving, other = _models(db)
            if other is None or not _owned(db, owner):
                return False
            if serving and serving.name == name:
                _set(db, other.slot, state="retired")
                return False
            if other.state == "building" and other.name != name:  # the folder was given other contents meanwhile
                _set(db, other.slot, state="waiting", name=name)
                return False
            table = vector_slots[other.slot]
            done = db.scalar(select(func.count()).select_from(table)) or 0
            _set(db, other.slot, state="building", name=name, done=done, total=_total(db))
            return True

    def passages_for_next(self, after: int, limit: int) -> list[tuple[int, str]]:
        with self._db.read() as db:
            _, other = _models(db)
            if other is None:
                return []
            table = vector_slots[other.slot]
            query = (
                select(passages.c.id, passages.c.text)
                .outerjoin(table, table.c.passage_id == passages.c.id)
                .where(passages.c.id > after, table.c.passage_id.is_(None))
                .order_by(passages.c.id)
                .limit(limit)
            )
            return [(row.id, row.text) for row in db.execute(query)]

    def add_next_vectors(self, owner: str, ids: Sequence[int], rows: Vectors, rate: float, long: int) -> bool:
        with self._db.write() as db:
            models_stay(db)
            _, other = _models(db)
            if other is None or other.state != "building" or not _owned(db, owner):
                return False
            table = vector_slots[other.slot]
            there = (
                select(passages.c.id, files.c.base_id)
                .join(files)
                .where(passages.c.id.in_(ids), ~exists().where(table.c.passage_id == passages.c.id))
                .with_for_update(read=True, of=passages)  # not deleted while they get their vectors
            )
            bases = {row.id: row.base_id for row in db.execute(there)}
            new = [
                {"passage_id": i, "base_id": bases[i], "vector": row}
                for i, row in zip(ids, rows, strict=True)
                if i in bases
            ]
            if new:
                db.execute(insert(table), new)
            done = other.done + len(new)
            _set(db, other.slot, done=done, total=max(done, other.total), rate=rate, long=other.long + long)
            return True

    def prepare_swap(self) -> None:
        with self._db.read() as db:
            _, other = _models(db)
        if other:
            self._prepare(other.slot)

    def swap(self, owner: str) -> bool:
        with self._db.write() as db:
            models_stay(db)
            # All bases first: whoever changes what can be found in one holds it.
            db.execute(select(knowledge_bases.c.id).order_by(knowledge_bases.c.id).with_for_update())
            serving, other = _models(db)
            if other is None or other.state != "building" or not _owned(db, owner):
                return False
            table = vector_slots[other.slot]
            bare = (
                select(passages.c.id)
                .join(files)
                .outerjoin(table, table.c.passage_id == passages.c.id)
                .where(files.c.state == "searchable", table.c.passage_id.is_(None))
            )
            if db.scalar(bare.limit(1)) is not None:
                return False
            self._coming(db, other.slot)
            if serving:
                _set(db, serving.slot, state="retired")
            _set(db, other.slot, state="serving", claimed_by=None, claimed_until=None)
            db.execute(update(knowledge_bases).values(version=knowledge_bases.c.version + 1))
            have = (
                select(func.count())
                .select_from(table.join(passages, passages.c.id == table.c.passage_id))
                .where(passages.c.file_id == files.c.id)
                .scalar_subquery()
            )
            db.execute(update(files).where(files.c.state == "embedding").values(passages=have))
        self._came(other.slot)
        return True

    def release_change(self, owner: str) -> None:
        with self._db.write() as db:
            mine = embedding_models.c.claimed_by == owner
            db.execute(update(embedding_models).where(mine).values(claimed_by=None, claimed_until=None))

    def fail_change(self, owner: str, error: str) -> None:
        with self._db.write() as db:
            mine = (embedding_models.c.claimed_by == owner) & embedding_models.c.state.in_(_TO_COME)
            done = {"state": "failed", "error": error, "claimed_by": None, "claimed_until": None}
            db.execute(update(embedding_models).where(mine).values(**done))

    def embedding_model(self) -> str | None:
        """The model and version whose vectors are in service; None before the first."""
        serving, _ = self.models()
        return serving.name if serving else None


def _models(db: Connection) -> tuple[ModelRecord | None, ModelRecord | None]:
    fields = tuple(ModelRecord.__dataclass_fields__)
    records = [
        ModelRecord(**{field: getattr(row, field) for field in fields}) for row in db.execute(select(embedding_models))
    ]
    serving = next((record for record in records if record.state == "serving"), None)
    return serving, next((r for r in records if r.state in (*_TO_COME, "failed")), None)


def _set(db: Connection, slot: int, **values: object) -> None:
    db.execute(update(embedding_models).where(embedding_models.c.slot == slot).values(**values))


def _owned(db: Connection, owner: str) -> bool:
    mine = select(embedding_models.c.slot).where(embedding_models.c.claimed_by == owner)
    return db.scalar(mine) is not None


def _total(db: Connection) -> int:
    return db.scalar(select(func.count()).select_from(passages)) or 0
