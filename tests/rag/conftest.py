"""One worker with the bundled embedding model for all tests of a process: loading it takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rag.embeddings import WorkerEmbeddings
from rag.knowledge import KnowledgeService


@pytest.fixture(scope="session")
def embeddings() -> Iterator[WorkerEmbeddings]:
    model = WorkerEmbeddings(threads=1)
    yield model
    model.close()


@pytest.fixture
async def knowledge(tmp_path: Path, embeddings: WorkerEmbeddings) -> AsyncIterator[KnowledgeService]:
    """A knowledge service in an empty data folder, started."""
    service = KnowledgeService(tmp_path / "data", embeddings=embeddings)
    await service.start()
    yield service
    await service.close()
