"""What the way of a file to searchable does when files go and threads work at the same time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from rag.knowledge import KnowledgeService
from tests.rag.hashed_embeddings import HashedEmbeddings


async def test_a_file_deleted_while_it_is_read_leaves_no_trace_and_no_word_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("kb")
    source = tmp_path / "a.txt"
    for turn in range(12):  # at another moment of the reader's start each
        source.write_text(f"alpha{turn}")
        record = await knowledge.add_file("kb", "a.txt", source)
        await asyncio.sleep(0.02 * turn)
        await knowledge.delete_file("kb", record.id)
    source.write_text("omega")
    (last,) = await knowledge.wait("kb", [(await knowledge.add_file("kb", "last.txt", source)).id])
    assert last.state == "searchable"
    assert [file.name for file in await knowledge.files("kb")] == ["last.txt"]
    await knowledge.close()
    assert [record.getMessage() for record in caplog.records] == []
