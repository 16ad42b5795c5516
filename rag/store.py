"""Where knowledge bases live: the protocol every store fulfils, and the tables they share. Knows no SQL dialect.

A file's state lives here and nowhere else. Its passages and vectors may be written piece by piece before; they are
invisible until the one transaction that makes the file searchable, and gone with the one that deletes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from rag.ranking import Candidates
from rag.types import FileRecord, KnowledgeBase

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]

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
    Column("number", Integer, primary_key=True),  # the order of arrival
    Column("id", String(32), nullable=False, unique=True),
    Column("base_id", ForeignKey("knowledge_bases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("pages", Integer),
    Column("passages", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("base_id", "sha256"),
    sqlite_autoincrement=True,
)

passages = Table(
    "passages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("file_id", ForeignKey("files.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", Text, nullable=False),  # what keyword search reads: rag.words, joined by spaces
    Column("page", Integer),
    Column("heading", Text, nullable=False),
    Index("passages_of_file", "file_id", "position", unique=True),
    sqlite_autoincrement=True,
)

vectors = Table(
    "vectors",
    metadata,
    Column("passage_id", ForeignKey("passages.id", ondelete="CASCADE"), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float32, little-endian, normalised
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)


@dataclass(frozen=True)
class NewFile:
    """A file whose bytes are already on disk under `id`. `size` in bytes, `sha256` in hex."""

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
    """A file on its way. `parsed` tells that its passages are stored and only vectors are missing."""

    base: str
    file_id: str
    name: str
    parsed: bool


class Store(Protocol):
    """All methods block, may be called from any thread, and are one transaction each. Those that take a base or file
    raise NotFound when it is not there, those that write raise StorageFull when the disk has no room."""

    def bases(self) -> list[KnowledgeBase]: ...
    def create_base(self, name: str) -> KnowledgeBase:
        """Raises Conflict when there is one of this name."""
        ...

    def delete_base(self, name: str) -> list[str]:
        """Returns the ids of its files, whose bytes are now nobody's."""
        ...

    def add_file(self, base: str, file: NewFile) -> FileRecord:
        """Queues the file. The same content again gives the record that is there (under its own id); one that had
        failed is queued once more."""
        ...

    def files(self, base: str) -> list[FileRecord]: ...
    def file(self, base: str, file_id: str) -> FileRecord: ...
    def delete_file(self, base: str, file_id: str) -> None: ...
    def file_ids(self) -> set[str]:
        """Of all bases: bytes on disk under any other id are nobody's."""
        ...

    def jobs(self) -> list[Job]:
        """Files that are neither searchable nor failed, in order of arrival."""
        ...

    def parsing(self, file_id: str, progress: float, pages: int | None) -> None: ...
    def parsed(self, file_id: str, pages: int | None, new: Iterable[NewPassage], note: str) -> None:
        """Stores the passages; `note` says what of the file could not be read, or is ""."""
        ...

    def passages_without_vector(self, file_id: str) -> list[int]:
        """Passage ids, the longest text first."""
        ...

    def passage_texts(self, ids: Sequence[int]) -> list[str]: ...
    def add_vectors(self, file_id: str, ids: Sequence[int], rows: Vectors) -> None: ...
    def finish(self, file_id: str) -> list[str]:
        """Makes the file searchable once all its passages have vectors, and deletes what it replaces: older files of
        its name, whose ids are returned. A file overtaken by a newer one of its name is itself deleted and returned."""
        ...

    def fail(self, file_id: str, reason: str, error: str) -> None: ...
    def use_embedding_model(self, name: str) -> None:
        """Vectors of another model are dropped and made again."""
        ...

    def candidates(self, base: str, words: Sequence[str], vector: Vectors | None, limit: int) -> Candidates:
        """The `limit` best by keywords and, given a query vector of shape (1, dimension), the `limit` nearest."""
        ...

    def close(self) -> None: ...
