"""A disk that is full while files come: a sentence for each, nothing lost, and it goes on when there is room again."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backends.errors import StorageFull
from rag.knowledge import KnowledgeService
from rag.types import FileRecord
from tests.rag.hashed_embeddings import HashedEmbeddings


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail in this process, as on a disk that is full."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def largest(folder: Path) -> int:
    return max(file.stat().st_size for file in folder.rglob("*") if file.is_file())


async def finished(knowledge: KnowledgeService, file_id: str, seconds: float) -> FileRecord:
    """The record when it is searchable or failed, or what it is after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            (record,) = await knowledge.wait("kb", [file_id])
    except TimeoutError:
        record = await knowledge.file("kb", file_id)
    return record


async def is_found(knowledge: KnowledgeService, word: str) -> bool:
    hits = await knowledge.search("kb", word)
    return bool(hits) and word in hits[0].text.split()


@pytest.mark.timeout(240)
async def test_wherever_the_disk_is_full_nothing_is_lost_and_it_goes_on(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("kb")
    source = tmp_path / "source"
    found: list[str] = []
    refused: list[str] = []
    failed: list[str] = []
    # Less room each time: it lacks for the last step of a file first, for its bytes at the end.
    for turn, room in enumerate((None, 400_000, 120_000, 60_000, 30_000, 10_000, 0)):
        word = f"word{turn}"
        source.write_text("\n\n".join(f"{word} part{n} " + f"filler{turn} words{n} between " * 30 for n in range(60)))
        if room is None:
            record = await knowledge.add_file("kb", f"{turn}.txt", source)
        else:
            with no_file_larger_than(largest(tmp_path / "data") + room if room else 1_000):
                try:
                    record = await knowledge.add_file("kb", f"{turn}.txt", source)
                except StorageFull as error:
                    refused.append(error.message)
                    record = None
                else:
                    # Where not even the failure can be written, it waits for room.
                    record = await finished(knowledge, record.id, 60 if room > 50_000 else 1)
                assert await is_found(knowledge, "word0")  # what was there can be asked for all the time
        if record is None:
            record = await knowledge.add_file("kb", f"{turn}.txt", source)
        record = await finished(knowledge, record.id, 60)
        if record.state == "failed":
            assert record.reason == "storage_full"
            failed.append(record.error)
            await knowledge.reindex("kb", record.id)
            record = await finished(knowledge, record.id, 60)
        assert record.state == "searchable", record
        found.append(word)
        assert [await is_found(knowledge, word) for word in found] == [True] * len(found)
    assert refused
    assert failed
    assert all("free some space" in sentence for sentence in refused + failed)
    assert len(list((tmp_path / "data" / "files").iterdir())) == len(found)
    await knowledge.close()
    with closing(sqlite3.connect(tmp_path / "data" / "quartet.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
