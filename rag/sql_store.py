"""What both stores have in common: all of a Store but how words and vectors are searched. Knows no SQL dialect.

The subclass says how passages are filed for keyword search and how the nearest vectors are found.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, func, insert, or_, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from backends.errors import Conflict, NotFound
from rag import sql_whole
from rag.ranking import Candidate, Candidates
from rag.sql_rows import JOBS, QUEUED, UNFINISHED, base_id_of, file_row, job_of, record_of, short
from rag.store import Job, NewFile, NewPassage, Vectors, files, knowledge_bases, passages, settings, vectors
from rag.types import FileRecord, KnowledgeBase


class Database(Protocol):
    """Transactions. What is read in one `read` is of one moment; a `write` is committed at its end or not at all."""

    def read(self) -> AbstractContextManager[Connection]: ...
    def write(self) -> AbstractContextManager[Connection]: ...
    def close(self) -> None: ...


class SqlStore:
    """A Store over `database`, but for what the subclass adds."""

    keeps_bytes = False

    def __init__(self, database: Database) -> None:
        self._db = database

    def close(self) -> None:
        self._db.close()

    # ---- what the subclass says

    def _now(self, db: Connection) -> float:
        """Seconds since 1970 by the clock that all who share the store look at."""
        raise NotImplementedError

    def _base_made(self, db: Connection, base_id: int) -> None:
        raise NotImplementedError

    def _base_going(self, db: Connection, base_id: int) -> None:
        raise NotImplementedError

    def _file_words(self, db: Connection, base_id: int, file_id: str) -> None:
        """Makes the stored passages of a file findable by their words."""
        raise NotImplementedError

    def _unfile_words(self, db: Connection, base_id: int, file_id: str) -> None:
        raise NotImplementedError

    def _by_words(
        self, db: Connection, base_id: int, words: Sequence[str], limit: int
    ) -> tuple[dict[str, int], list[int]]:
        """In how many passages each word is (not those that are in none), and the `limit` best passages."""
        raise NotImplementedError

    def _nearest(self, base_id: int, vector: Vectors, limit: int) -> list[int]:
        raise NotImplementedError

    def _keep(self, db: Connection, file_id: str, content: Path) -> None:
        """Stores the bytes of a file, in a store that keeps them."""

    def _changed(self, base_id: int, version: int, added: str | None = None, removed: Sequence[int] = ()) -> None:
        """A commit made `version` of a base: a file came, passages went."""

    def _forget(self) -> None:
        """Something was deleted that must not stay on the disk."""

    def read_content(self, file_id: str, target: Path) -> None:
        raise NotFound("This store keeps no files; they are in the data folder.")

    # ---- knowledge bases

    def bases(self) -> list[KnowledgeBase]:
        query = (
            select(knowledge_bases.c.name, func.count(files.c.id), func.coalesce(func.sum(files.c.passages), 0))
            .outerjoin(files)
            .group_by(knowledge_bases.c.id)
            .order_by(knowledge_bases.c.id)
        )
        with self._db.read() as db:
            return [KnowledgeBase(*row) for row in db.execute(query)]

    def create_base(self, name: str) -> KnowledgeBase:
        with self._new_base(name):
            return KnowledgeBase(name, 0, 0)

    @contextmanager
    def _new_base(self, name: str) -> Iterator[tuple[Connection, int]]:
        """The transaction and the id of a base that is being made. Raises Conflict when there is one of this name."""
        try:
            with self._db.write() as db:
                db.execute(insert(knowledge_bases).values(name=name, version=0))
                base_id = base_id_of(db, name)
                self._base_made(db, base_id)
                yield db, base_id
        except IntegrityError:
            raise Conflict(f"There is already a knowledge base named “{name}”; choose another name.") from None

    def delete_base(self, name: str) -> list[str]:
        with self._db.write() as db:
            base_id = base_id_of(db, name, lock=True)
            gone = list(db.scalars(select(files.c.id).where(files.c.base_id == base_id)))
            self._base_going(db, base_id)
            db.execute(delete_from(knowledge_bases).where(knowledge_bases.c.id == base_id))
        self._forget()
        return gone

    def add_whole_base(self, name: str, whole: sql_whole.Whole) -> None:
        """A new base with all its files, or nothing. Raises Conflict when there is one of this name."""
        with self._new_base(name) as (db, base_id):
            for file in whole:
                if sql_whole.add_file(db, base_id, file):
                    self._file_words(db, base_id, file[0].id)
                self._keep(db, file[0].id, file[4])
            version = sql_whole.changed(db, base_id)
        self._changed(base_id, version, added="")

    def whole_file(self, file_id: str) -> tuple[str, list[sql_whole.Passage], Vectors]:
        """The SHA-256 of a file's bytes in hex, its passages in order, and their vectors."""
        with self._db.read() as db:
            return sql_whole.whole_file(db, file_id)

    # ---- files

    def add_file(self, base: str, file: NewFile, content: Path | None = None) -> FileRecord:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            same = db.execute(
                select(files).where(files.c.base_id == base_id, files.c.sha256 == file.sha256)
            ).one_or_none()
            if same is None:
                db.execute(
                    insert(files).values(
                        id=file.id,
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
                    self._keep(db, file.id, content)
            elif same.state == "failed":
                db.execute(update(files).where(files.c.id == same.id).values(**QUEUED))
            return record_of(file_row(db, base_id, file.id if same is None else same.id))

    def files(self, base: str) -> list[FileRecord]:
        with self._db.read() as db:
            query = select(files).where(files.c.base_id == base_id_of(db, base)).order_by(files.c.number)
            return [record_of(row) for row in db.execute(query)]

    def file(self, base: str, file_id: str) -> FileRecord:
        with self._db.read() as db:
            return record_of(file_row(db, base_id_of(db, base), file_id))

    def delete_file(self, base: str, file_id: str) -> None:
        with self._db.write() as db:
            base_id = base_id_of(db, base, lock=True)
            file_row(db, base_id, file_id)
            version, removed = self._delete(db, base_id, [file_id])
        self._changed(base_id, version, removed=removed)
        self._forget()

    def file_ids(self) -> set[str]:
        with self._db.read() as db:
            return set(db.scalars(select(files.c.id)))

    # ---- the way of a file

    def jobs(self) -> list[Job]:
        with self._db.read() as db:
            return [job_of(row) for row in db.execute(JOBS)]

    def waiting(self) -> int:
        with self._db.read() as db:
            return db.scalar(select(func.count()).where(files.c.state.in_(UNFINISHED))) or 0

    def claim(self, owner: str, seconds: float) -> Job | None:
        with self._db.read() as db:  # most of the time there is nothing, and that costs the others no lock
            if not db.execute(JOBS.where(self._free(db)).limit(1)).first():
                return None
        with self._db.write() as db:
            free = JOBS.where(self._free(db)).limit(1).with_for_update(skip_locked=True, of=files)
            row = db.execute(free).first()
            if row is None:
                return None
            until = self._now(db) + seconds
            db.execute(update(files).where(files.c.id == row.id).values(claimed_by=owner, claimed_until=until))
            return job_of(row)

    def renew(self, owner: str, seconds: float) -> None:
        with self._db.write() as db:
            mine = (files.c.claimed_by == owner) & files.c.state.in_(UNFINISHED)
            db.execute(update(files).where(mine).values(claimed_until=self._now(db) + seconds))

    def release(self, owner: str, file_id: str) -> None:
        with self._db.write() as db:
            mine = (files.c.claimed_by == owner) & (files.c.id == file_id)
            db.execute(update(files).where(mine).values(claimed_by=None, claimed_until=None))

    def _free(self, db: Connection) -> Any:
        return or_(files.c.claimed_until.is_(None), files.c.claimed_until < self._now(db))

    def parsing(self, file_id: str, progress: float, pages: int | None) -> None:
        with self._db.write() as db:
            # Not from embedding back: whoever lost its claim to another must not undo what that one has done.
            going = (files.c.id == file_id) & files.c.state.in_(["uploaded", "parsing"])
            db.execute(update(files).where(going).values(state="parsing", progress=progress, pages=pages))

    def parsed(self, file_id: str, pages: int | None, new: Iterable[NewPassage], note: str) -> None:
        rows = [
            {
                "file_id": file_id,
                "position": position,
                "text": passage.text.replace("\0", ""),
                "words": " ".join(short(passage.words)),
                "page": passage.page,
                "heading": passage.heading.replace("\0", ""),
            }
            for position, passage in enumerate(new)
        ]
        with self._db.write() as db:
            if db.execute(
                update(files)
                .where(files.c.id == file_id, files.c.state.in_(UNFINISHED))
                .values(state="embedding", progress=0.0, passages=0, pages=pages, error=note)
            ).rowcount:
                db.execute(delete_from(passages).where(passages.c.file_id == file_id))
                if rows:
                    db.execute(insert(passages), rows)

    def passages_without_vector(self, file_id: str) -> list[int]:
        query = (
            select(passages.c.id)
            .outerjoin(vectors)
            .where(passages.c.file_id == file_id, vectors.c.passage_id.is_(None))
            .order_by(func.length(passages.c.text).desc())
        )
        with self._db.read() as db:
            return list(db.scalars(query))

    def passage_texts(self, ids: Sequence[int]) -> list[str]:
        with self._db.read() as db:
            rows = db.execute(select(passages.c.id, passages.c.text).where(passages.c.id.in_(ids)))
            texts = {row.id: row.text for row in rows}
        return [texts.get(i, "") for i in ids]

    def add_vectors(self, file_id: str, ids: Sequence[int], rows: Vectors) -> bool:
        with self._db.write() as db:
            file = db.execute(select(files).where(files.c.id == file_id).with_for_update()).one_or_none()
            if file is None or file.state != "embedding":  # deleted meanwhile, or another one was faster
                return False
            bare = select(passages.c.id).outerjoin(vectors).where(vectors.c.passage_id.is_(None))
            wanted = set(db.scalars(bare.where(passages.c.file_id == file_id, passages.c.id.in_(ids))))
            new = [
                {"passage_id": i, "base_id": file.base_id, "vector": row}
                for i, row in zip(ids, rows, strict=True)
                if i in wanted
            ]
            if not new:
                return True
            db.execute(insert(vectors), new)
            total = db.scalar(select(func.max(passages.c.position) + 1).where(passages.c.file_id == file_id)) or 1
            done = file.passages + len(new)
            db.execute(update(files).where(files.c.id == file_id).values(passages=done, progress=min(1, done / total)))
            return True

    def finish(self, file_id: str) -> list[str]:
        with self._db.write() as db:
            base_id = db.scalar(select(files.c.base_id).where(files.c.id == file_id))
            # The base first, then the file: everybody who takes both takes them in this order.
            db.execute(select(knowledge_bases.c.id).where(knowledge_bases.c.id == base_id).with_for_update())
            mine = select(files).where(files.c.id == file_id, files.c.state == "embedding").with_for_update()
            file = db.execute(mine).one_or_none()
            bare = select(passages.c.id).outerjoin(vectors).where(vectors.c.passage_id.is_(None))
            if file is None or db.scalars(bare.where(passages.c.file_id == file_id).limit(1)).first():
                return []
            same_name = select(files.c.id).where(files.c.base_id == file.base_id, files.c.name == file.name)
            newer = same_name.where(files.c.number > file.number, files.c.state == "searchable")
            if db.scalars(newer).first():
                gone = [file_id]
            else:
                gone = list(db.scalars(same_name.where(files.c.number < file.number)))
                self._file_words(db, file.base_id, file_id)
                count = select(func.count()).where(passages.c.file_id == file_id).scalar_subquery()
                done = {"state": "searchable", "progress": 1.0, "claimed_by": None, "claimed_until": None}
                db.execute(update(files).where(files.c.id == file_id).values(passages=count, **done))
            version, removed = self._delete(db, file.base_id, gone)
        self._changed(file.base_id, version, added=file_id, removed=removed)
        if gone:
            self._forget()
        return gone

    def fail(self, file_id: str, reason: str, error: str) -> None:
        with self._db.write() as db:
            failed = {"state": "failed", "progress": 1.0, "passages": 0, "reason": reason, "error": error}
            if db.execute(
                update(files).where(files.c.id == file_id, files.c.state.in_(UNFINISHED)).values(**failed)
            ).rowcount:
                db.execute(delete_from(passages).where(passages.c.file_id == file_id))

    def use_embedding_model(self, name: str) -> None:
        with self._db.write() as db:
            before = db.scalar(select(settings.c.value).where(settings.c.name == "embedding_model"))
            if before == name:
                return
            if before is None:
                db.execute(insert(settings).values(name="embedding_model", value=name))
                return
            db.execute(update(settings).where(settings.c.name == "embedding_model").values(value=name))
            db.execute(delete_from(vectors))
            for file_id, base_id in db.execute(
                select(files.c.id, files.c.base_id).where(files.c.state == "searchable")
            ).all():
                self._unfile_words(db, base_id, file_id)
            db.execute(
                update(files)
                .where(files.c.state.in_(["searchable", "embedding"]))
                .values(state="embedding", progress=0.0, passages=0)
            )
            db.execute(update(knowledge_bases).values(version=knowledge_bases.c.version + 1))

    def embedding_model(self) -> str | None:
        """Whose vectors these are; None before the first use."""
        with self._db.read() as db:
            return db.scalar(select(settings.c.value).where(settings.c.name == "embedding_model"))

    # ---- search

    def candidates(self, base: str, words: Sequence[str], vector: Vectors | None, limit: int) -> Candidates:
        with self._db.read() as db:
            base_id = base_id_of(db, base)
        near = self._nearest(base_id, vector, limit) if vector is not None else []
        with self._db.read() as db:
            base_id = base_id_of(db, base)
            searchable = (files.c.base_id == base_id) & (files.c.state == "searchable")
            total = db.scalar(select(func.sum(files.c.passages)).where(searchable)) or 0
            frequency, matching = self._by_words(db, base_id, short(words), limit)
            ids = list(dict.fromkeys([*matching, *near]))
            query = (
                select(passages, files.c.name, vectors.c.vector)
                .join(files, passages.c.file_id == files.c.id)
                .join(vectors)
                .where(passages.c.id.in_(ids), searchable)
            )
            found = {
                row.id: Candidate(
                    passage_id=row.id,
                    text=row.text,
                    words=tuple(row.words.split()),
                    cosine=None if vector is None else float(row.vector @ vector[0]),
                    file=row.name,
                    file_id=row.file_id,
                    page=row.page,
                    heading=row.heading,
                )
                for row in db.execute(query)
            }
        # In one order on every store, so that equal scores come out alike.
        return Candidates([found[i] for i in sorted(found)], total, frequency)

    # ---- the database

    def _delete(self, db: Connection, base_id: int, ids: Sequence[str]) -> tuple[int, list[int]]:
        """Takes files out of all tables; returns the new version of the base and the passages that were searchable."""
        removed: list[int] = []
        for row in db.execute(select(files.c.id, files.c.state).where(files.c.id.in_(ids))).all():
            if row.state == "searchable":
                removed.extend(db.scalars(select(passages.c.id).where(passages.c.file_id == row.id)))
                self._unfile_words(db, base_id, row.id)
        db.execute(delete_from(files).where(files.c.id.in_(ids)))
        return sql_whole.changed(db, base_id), removed
