"""The shared store: PostgreSQL with pgvector, for one app or several behind a balancer. Knows no embedding model.

Truth, vectors, keyword index and the bytes of the files are all in the database: an app needs nothing else of another.
"""

# ruff: noqa: S608  the only thing ever put into a statement as text is a number, formatted as one

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    Table,
    Text,
    insert,
    select,
    text,
)

from backends.errors import NotFound, QuartetError
from rag.postgres import PostgresDatabase
from rag.sql_rows import Searched, serving_slot
from rag.sql_store import SqlStore
from rag.store import TABLES, Vectors, files, knowledge_bases, metadata, vector_slots
from rag.words import STOP_WORDS

_log = logging.getLogger(__name__)
_MIB = 1024 * 1024
_LARGE = 20_000  # vectors in a base from which on an approximate index is worth its room
_LOOKED_AT = 2_000  # passages with a rare word of the question are enough to choose from
_MOST = 20_000  # that are looked at where even the rarest word is common

contents = Table(
    "contents",
    metadata,
    Column("file_id", ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# In how many searchable passages of a base a word is: what makes it rare or common.
word_counts = Table(
    "word_counts",
    metadata,
    Column("base_id", ForeignKey("knowledge_bases.id", ondelete="CASCADE"), primary_key=True),
    Column("word", Text, primary_key=True),
    Column("passages", BigInteger, nullable=False),
)

# The words come cut and folded by rag.words; a text search configuration would only cut them again, elsewhere.
_STATEMENTS = (
    "ALTER TABLE passages ADD COLUMN IF NOT EXISTS lexemes tsvector "
    "GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED",
    "CREATE INDEX IF NOT EXISTS passages_by_word ON passages USING gin (lexemes)",
)


class PostgresStore(SqlStore):
    """A Store in the database at `url`; any number of apps may share it. Raises QuartetError when it cannot be used,
    StorageUnreachable when it does not answer."""

    keeps_bytes = True

    def __init__(self, url: str, large: int = _LARGE) -> None:
        """`large` is how many vectors a base may have before they get an approximate index."""
        self._database = PostgresDatabase(url, [*TABLES, contents, word_counts], _STATEMENTS)
        super().__init__(self._database)
        self._large = large
        self._indexing = threading.Lock()

    def _now(self, db: Connection) -> float:
        return float(db.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)

    # ---- bytes

    def _keep(self, db: Connection, file_id: str, content: Path) -> None:
        with content.open("rb") as read:
            for part, data in enumerate(iter(lambda: read.read(_MIB), b"")):
                db.execute(insert(contents).values(file_id=file_id, part=part, data=data))

    def read_content(self, file_id: str, target: Path) -> None:
        part, parts = 0, select(contents.c.data).where(contents.c.file_id == file_id)
        with target.open("xb") as out:
            while True:
                with self._database.read() as db:
                    if part == 0 and not db.scalar(select(files.c.number).where(files.c.id == file_id)):
                        raise NotFound("This file is not there any more; it may have been deleted or replaced.")
                    data = db.scalar(parts.where(contents.c.part == part))
                if data is None:
                    return
                out.write(data)
                part += 1

    # ---- words

    def _base_made(self, db: Connection, base_id: int) -> None:
        """Nothing to make: the tables are for all bases."""

    def _base_going(self, db: Connection, base_id: int) -> None:
        for vectors in vector_slots:
            for name in db.scalars(_INDEXES, {"table": vectors.name, "like": "%_near_%"}).all():
                if name.startswith(f"{vectors.name}_near_{base_id:d}_"):  # in LIKE, "_" is any character
                    db.execute(text(f"DROP INDEX {name}"))

    def _file_words(self, db: Connection, base_id: int, file_id: str) -> None:
        db.execute(
            text(
                "INSERT INTO word_counts (base_id, word, passages) "
                "SELECT :base, word, count(*) FROM passages, unnest(tsvector_to_array(lexemes)) AS word "
                "WHERE file_id = :file GROUP BY word "
                "ON CONFLICT (base_id, word) DO UPDATE SET passages = word_counts.passages + excluded.passages"
            ),
            {"base": base_id, "file": file_id},
        )

    def _unfile_words(self, db: Connection, base_id: int, file_id: str) -> None:
        ids = {"base": base_id, "file": file_id}
        db.execute(
            text(
                "UPDATE word_counts SET passages = word_counts.passages - gone.n FROM ("
                "SELECT word, count(*) AS n FROM passages, unnest(tsvector_to_array(lexemes)) AS word "
                "WHERE file_id = :file GROUP BY word) AS gone "
                "WHERE word_counts.base_id = :base AND word_counts.word = gone.word"
            ),
            ids,
        )
        # A deleted text must leave no word behind.
        db.execute(text("DELETE FROM word_counts WHERE base_id = :base AND passages <= 0"), {"base": base_id})

    def _by_words(
        self, db: Connection, base: Searched, words: Sequence[str], limit: int, total: int
    ) -> tuple[dict[str, int], list[int]]:
        counted = select(word_counts.c.word, word_counts.c.passages).where(
            word_counts.c.base_id == base.base_id, word_counts.c.word.in_(list(dict.fromkeys(words)))
        )
        frequency = {row.word: row.passages for row in db.execute(counted)}
        telling = [word for word in frequency if word not in STOP_WORDS] or list(frequency)
        if not telling:
            return {}, []
        telling.sort(key=lambda word: frequency[word])
        # Whoever has none of the rare words comes after all that have one: only these need be looked at.
        needed, seen = [], 0
        for word in telling:
            needed.append(word)
            seen += frequency[word]
            if seen >= max(_LOOKED_AT, 20 * limit):
                break
        weights = {f"w{n}": math.log(1 + total / frequency[word]) + 0.01 for n, word in enumerate(telling)}
        score = " + ".join(
            f"CASE WHEN lexemes @@ CAST(:q{n} AS tsquery) THEN :w{n} ELSE 0 END" for n in range(len(telling))
        )
        rows = db.execute(
            text(
                "SELECT id FROM (SELECT passages.id, lexemes, words "
                "FROM passages JOIN files ON files.id = passages.file_id "
                "WHERE lexemes @@ CAST(:any AS tsquery) AND files.base_id = :base AND files.state = 'searchable' "
                f"LIMIT {_MOST:d}) AS matching ORDER BY {score} DESC, length(words), id LIMIT :limit"
            ),
            {
                "any": " | ".join(map(_quoted, needed)), "base": base.base_id, "limit": limit, **weights,
                **{f"q{n}": _quoted(word) for n, word in enumerate(telling)},
            },
        )  # fmt: skip
        return frequency, list(rows.scalars())

    # ---- vectors

    def _nearest(self, db: Connection, base: Searched, vector: Vectors, limit: int) -> list[int]:
        dimension, table = vector.shape[1], vector_slots[base.slot].name
        db.execute(text("SET LOCAL hnsw.iterative_scan = 'relaxed_order'"))
        db.execute(text(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * limit)):d}"))
        rows = db.execute(
            text(
                f"SELECT {table}.passage_id FROM {table} "
                f"JOIN passages ON passages.id = {table}.passage_id JOIN files ON files.id = passages.file_id "
                f"WHERE {table}.base_id = {base.base_id:d} AND files.state = 'searchable' "
                f"ORDER BY {_near(table, dimension)} <#> CAST(:vector AS {_kind(dimension)}) LIMIT :limit"
            ),
            {"vector": _literal(vector), "limit": limit},
        )
        return list(rows.scalars())

    def _changed(self, base_id: int, version: int, added: str | None = None, removed: Sequence[int] = ()) -> None:
        if added is None:
            return
        try:
            with self._database.read() as db:
                slot, _ = serving_slot(db)
            self._index_if_large(base_id, slot)
        except QuartetError as error:  # exact search goes on; the next file tries again
            _log.warning("the vectors of knowledge base %d got no index: %s", base_id, error)

    def _prepare(self, slot: int) -> None:
        with self._database.read() as db:
            bases = list(db.scalars(select(knowledge_bases.c.id)))
        for base_id in bases:
            self._index_if_large(base_id, slot)

    def _came(self, slot: int) -> None:
        with self._database.write() as db:
            for name in db.scalars(_INDEXES, {"table": vector_slots[1 - slot].name, "like": "%_near_%"}).all():
                db.execute(text(f"DROP INDEX {name}"))

    def _index_if_large(self, base_id: int, slot: int) -> None:
        """An approximate index of a large base's vectors. It is made while everybody reads and writes; PostgreSQL
        keeps it in step from then on. One that a crash left unfinished is made again."""
        with self._indexing, self._database.apart() as db:
            vectors = vector_slots[slot]
            some = db.scalar(select(vectors.c.vector).where(vectors.c.base_id == base_id).limit(1))
            if some is None or len(some) > _WIDEST:
                return
            name = f"{vectors.name}_near_{base_id:d}_{len(some):d}"
            found = db.execute(_INDEX, {"name": name}).one_or_none()
            if found and found.indisvalid:
                return
            most = select(vectors.c.passage_id).where(vectors.c.base_id == base_id).limit(1).offset(self._large - 1)
            if db.scalar(most) is None or not db.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": base_id}):
                return
            try:
                db.execute(text(f"DROP INDEX IF EXISTS {name}"))
                db.execute(text("SET maintenance_work_mem = '256MB'"))
                kind = _kind(len(some)).partition("(")[0]
                column = f"({_near(vectors.name, len(some))}) {kind}_ip_ops"
                where = f"WHERE base_id = {base_id:d}"
                db.execute(text(f"CREATE INDEX CONCURRENTLY {name} ON {vectors.name} USING hnsw ({column}) {where}"))
            finally:
                db.execute(text("RESET maintenance_work_mem"))
                db.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": base_id})


_WIDEST = 4000  # numbers in a row that pgvector's index takes, at half precision; at full it takes 2000
_INDEXES = text("SELECT indexname FROM pg_indexes WHERE tablename = :table AND indexname LIKE :like")
_INDEX = text("SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relname = :name")


def _kind(dimension: int) -> str:
    return f"vector({dimension:d})" if dimension <= 2000 or dimension > _WIDEST else f"halfvec({dimension:d})"


def _near(table: str, dimension: int) -> str:
    """The vector as a value of known width, as the index has it."""
    return f"CAST({table}.vector AS {_kind(dimension)})"


def _literal(vector: Vectors) -> str:
    return "[" + ",".join(map(str, np.asarray(vector, np.float32)[0].tolist())) + "]"


def _quoted(word: str) -> str:
    """The word as an operand of a tsquery, whatever is in it."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
