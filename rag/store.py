"""Where knowledge bases live: the protocol every store fulfils, and the tables they share. Knows no SQL dialect.

A file's state lives here and nowhere else. Its passages and vectors may be written piece by piece before; they are
invisible until the one transaction that makes the file searchable, and gone with the one that deletes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from rag.ranking import Candidates
from rag.types import FileRecord, KnowledgeBase, Neighbours

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_LONG = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where it says INTEGER


class _Row(TypeDecorator[Any]):
    """One float32 row: bytes in SQLite (little-endian), pgvector's type in PostgreSQL."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            from pgvector.sqlalchemy import VECTOR  # here: an embedded store needs no driver

            return dialect.type_descriptor(VECTOR())
        return dialect.type_descriptor(LargeBinary())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else value.astype("<f4").tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return np.asarray(value, np.float32) if dialect.name == "postgresql" else np.frombuffer(value, "<f4")


metadata = MetaData()

knowledge_bases = Table(
    "knowledge_bases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(400), nullable=False, unique=True),
    # Counts the commits that changed what can be found: an index made from an earlier one is stale.
    Column("version", Integer, nullable=False),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("number", _LONG, primary_key=True),  # the order of arrival
    Column("id", String(32), nullable=False, unique=True),
    Column("base_id", ForeignKey("knowledge_bases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("pages", Integer),
    Column("passages", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("rate", Float, nullable=False, default=0.0),  # passages per second, while it is embedded
    # A file that is read again while it is found: this row is the new reading, and takes its place when it is done.
    Column("renews", ForeignKey("files.id", ondelete="CASCADE"), index=True),
    # Who works on it, and until when the others keep away: seconds since 1970 by the clock of the database.
    Column("claimed_by", String(32)),
    Column("claimed_until", Float(53)),
    UniqueConstraint("base_id", "sha256"),
    sqlite_autoincrement=True,
)

passages = Table(
    "passages",
    metadata,
    Column("id", _LONG, primary_key=True),
    Column("file_id", ForeignKey("files.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", Text, nullable=False),  # what keyword search reads: rag.words, joined by spaces
    Column("page", Integer),
    Column("heading", Text, nullable=False),
    Index("passages_of_file", "file_id", "position", unique=True),
    sqlite_autoincrement=True,
)


def _vectors(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("passage_id", ForeignKey("passages.id", ondelete="CASCADE"), primary_key=True),
        Column("base_id", ForeignKey("knowledge_bases.id", ondelete="CASCADE"), nullable=False, index=True),
        Column("vector", _Row, nullable=False),  # normalised
    )


# Two places for vectors: those of one embedding model are searched while those of the next one are made.
vector_slots = (_vectors("vectors"), _vectors("vectors_2"))

# Whose vectors are in which of the two places.
embedding_models = Table(
    "embedding_models",
    metadata,
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),  # what it is loaded from: "", a folder, a hub id
    Column("name", Text, nullable=False),  # the model and its version; "" until it is known
    # serving; waiting, for the place to be empty; building; failed; retired
    Column("state", String(16), nullable=False),
    Column("done", BigInteger, nullable=False, default=0),
    Column("total", BigInteger, nullable=False, default=0),
    Column("rate", Float, nullable=False, default=0.0),  # passages per second
    Column("long", BigInteger, nullable=False, default=0),  # passages that this model does not read whole
    Column("error", Text, nullable=False, default=""),
    Column("claimed_by", String(32)),
    Column("claimed_until", Float(53)),
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

# Files that are gone when another one is searchable, which has the content that was sent under their name.
successors = Table(
    "successors",
    metadata,
    Column("file_id", String(32), ForeignKey(files.c.id, ondelete="CASCADE"), primary_key=True),
    Column("successor", String(32), ForeignKey(files.c.id, ondelete="CASCADE"), primary_key=True, index=True),
)

TABLES = [knowledge_bases, files, successors, passages, *vector_slots, embedding_models, settings]


@dataclass(frozen=True)
class NewFile:
    """A file whose bytes are already on this machine's disk. `size` in bytes, `sha256` in hex."""

    id: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class NewPassage:
    """`words` is what keyword search shall find it by."""

    text: str
    words: Sequence[str]
    page: int | None
    heading: str


@dataclass(frozen=True)
class Job:
    """A file on its way. `parsed` tells that its passages are stored and only vectors are missing; the bytes are those
    of `content`."""

    base: str
    file_id: str
    content: str
    name: str
    parsed: bool


@dataclass(frozen=True)
class ModelRecord:
    """An embedding model of the store, as in the table of them. `source` "" is the one that is built in."""

    slot: int
    source: str
    name: str
    state: str
    done: int
    total: int
    rate: float
    long: int
    error: str


class Store(Protocol):
    """All methods block, may be called from any thread, and are one transaction each. Those that take a base or file
    raise NotFound when it is not there, those that write raise StorageFull when the disk has no room, and those of a
    store on another machine StorageUnreachable."""

    def bases(self) -> list[KnowledgeBase]: ...
    def has_base(self, name: str) -> bool: ...
    def create_base(self, name: str) -> KnowledgeBase:
        """Raises Conflict when there is one of this name."""
        ...

    def delete_base(self, name: str) -> list[str]:
        """Returns the ids of its files, whose bytes are now nobody's."""
        ...

    def add_file(self, base: str, file: NewFile, content: Path | None = None) -> tuple[FileRecord, list[str]]:
        """Queues the file. The same content again gives the record that is there (under its own id); one that had
        failed is queued once more, under its new name and behind all others. A store that keeps bytes reads them from
        `content` in the same transaction.

        When the content is there under another name, whatever had this name says something else, and is deleted, at
        once (then its ids are returned too) or when the content is searchable."""
        ...

    @property
    def keeps_bytes(self) -> bool:
        """Whether the bytes of files are in the store, for every app that shares it, and not in the data folder."""
        ...

    def read_content(self, file_id: str, target: Path) -> None:
        """Writes the bytes that the store keeps into the new file `target`. Raises NotFound."""
        ...

    def files(self, base: str) -> list[FileRecord]: ...
    def file(self, base: str, file_id: str) -> FileRecord: ...
    def delete_file(self, base: str, file_id: str) -> None: ...
    def reindex(self, base: str, file_id: str, reading: str) -> FileRecord:
        """Queues a file to be read again, under the new id `reading`; one that failed is queued itself, and one on its
        way goes on."""
        ...

    def file_ids(self) -> set[str]:
        """Of all bases: bytes on disk under any other id are nobody's."""
        ...

    def jobs(self) -> list[Job]:
        """Files that are neither searchable nor failed, in order of arrival."""
        ...

    def waiting(self) -> int:
        """How many these are."""
        ...

    def claim(self, owner: str, seconds: float) -> Job | None:
        """The oldest job that nobody works on, for `owner` alone until `seconds` have passed without a renewal."""
        ...

    def renew(self, owner: str, file_ids: Sequence[str], seconds: float) -> None:
        """The claims of these files and of a change of the model; the others of `owner` run out."""
        ...

    def release(self, owner: str, file_id: str) -> None:
        """Gives back what is not finished, for the next one to claim."""
        ...

    def parsing(self, file_id: str, progress: float, pages: int | None) -> bool:
        """Whether it is still to be read."""
        ...

    def parsed(self, file_id: str, pages: int | None, new: Iterable[NewPassage], note: str) -> None:
        """Stores the passages; `note` says what of the file could not be read, or is ""."""
        ...

    def passages_without_vector(self, file_id: str) -> list[int]:
        """Passage ids, the longest text first."""
        ...

    def passage_texts(self, ids: Sequence[int]) -> list[str]: ...
    def add_vectors(self, file_id: str, ids: Sequence[int], rows: Vectors, model: str = "", rate: float = 0.0) -> bool:
        """Whether the file still waits for vectors of `model`: not when it was deleted, cancelled or finished, or when
        another model came into service meanwhile. `rate` is in passages per second."""
        ...

    def finish(self, file_id: str) -> list[str]:
        """Makes the file searchable once all its passages have vectors, and deletes what it replaces: older files of
        its name or of others that it was sent under, whose ids are returned. A file overtaken by a newer one of its
        name is itself deleted and returned. What was read again takes the place of what was read before."""
        ...

    def fail(self, file_id: str, reason: str, error: str) -> None:
        """A file that was to be read again stays as it was."""
        ...

    # ---- embedding models

    def models(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        """The one in service, and the one that is to follow it or failed to."""
        ...

    def ask_for_model(self, source: str, name: str) -> None:
        """This one shall be in service: at once where there are no vectors yet and `name` is known, else when all
        passages have vectors of it. Asking for the one in service gives up a change under way."""
        ...

    def clear_unused(self, limit: int) -> bool:
        """Deletes at most `limit` vectors that are of no use any more; whether there was anything to do."""
        ...

    def claim_change(self, owner: str, seconds: float) -> ModelRecord | None:
        """The change that is to be worked on and that nobody else works on; `renew` keeps it."""
        ...

    def begin_change(self, owner: str, name: str) -> bool:
        """The model is loaded, and called so. Whether there is anything left to do for `owner`."""
        ...

    def passages_for_next(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Passages, by id and from `after` on, that the next model has no vector of."""
        ...

    def add_next_vectors(self, owner: str, ids: Sequence[int], rows: Vectors, rate: float, long: int) -> bool:
        """Whether the change is still `owner`'s. `rate` in passages per second; `long` counts passages among these
        that the model does not read whole."""
        ...

    def prepare_swap(self) -> None:
        """Makes what searches with the next model need, as far as it can be made before."""
        ...

    def swap(self, owner: str) -> bool:
        """Puts the next model into service, in one transaction; not when a searchable passage has no vector of it."""
        ...

    def release_change(self, owner: str) -> None: ...
    def fail_change(self, owner: str, error: str) -> None:
        """The one in service stays."""
        ...

    # ---- search

    def candidates(
        self, base: str, words: Sequence[str], vector: Vectors | None, limit: int, model: str = ""
    ) -> Candidates:
        """The `limit` best by keywords and, given a query vector of shape (1, dimension), the `limit` nearest.
        Raises ModelChanged when the vector is of `model` and that is not the one in service any more."""
        ...

    def neighbours(self, ids: Sequence[int]) -> dict[int, Neighbours]:
        """Of each of these passages that is still there."""
        ...

    def close(self) -> None: ...
