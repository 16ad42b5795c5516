"""A database that is damaged, cut off or gone: one sentence, and nothing of what is left is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import QuartetError
from rag.knowledge import KnowledgeService
from tests.postgres import Postgres
from tests.rag.hashed_embeddings import HashedEmbeddings


def service(data: Path, url: str = "") -> KnowledgeService:
    return KnowledgeService(data, embeddings=HashedEmbeddings(), database_url=url)


async def fill(data: Path) -> str:
    """A data folder with one searchable document; its id."""
    knowledge = service(data)
    await knowledge.start()
    await knowledge.create("kb")
    source = data / "source"
    source.write_text("\n\n".join(f"alpha number{n} " + "filler words " * 60 for n in range(60)))
    (record,) = await knowledge.wait("kb", [(await knowledge.add_file("kb", "a.txt", source)).id])
    assert record.state == "searchable"
    await knowledge.close()
    return record.id


def everything(data: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in data.rglob("*") if file.is_file()}


def put_back(data: Path, backup: bytes) -> None:
    for left in data.glob("quartet.db-*"):
        left.unlink()
    (data / "quartet.db").write_bytes(backup)


def cut(share: float) -> Callable[[Path], None]:
    def damage(database: Path) -> None:
        raw = database.read_bytes()
        database.write_bytes(raw[: int(share * len(raw))])

    return damage


def overwrite(database: Path) -> None:
    raw = bytearray(database.read_bytes())
    raw[4096:40_960] = b"\xff" * (40_960 - 4096)
    database.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut in the middle": cut(0.5),
    "cut off in its last page": cut(0.99),
    "cut in its first page": cut(0.001),
    "emptied": cut(0),
    "gone": Path.unlink,
    "overwritten": overwrite,
    "another file": lambda database: database.write_text("this is no database " * 1_000) and None,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_database_that_is_not_whole_is_told_and_everything_left_as_it_was(tmp_path: Path, damage: str) -> None:
    file_id = await fill(tmp_path)
    whole = (tmp_path / "quartet.db").read_bytes()
    DAMAGE[damage](tmp_path / "quartet.db")
    before = everything(tmp_path)
    for _ in range(2):  # the second start knows no better
        with pytest.raises(QuartetError, match=r"quartet\.db is (damaged|missing).*backup") as told:
            await service(tmp_path).start()
        assert "\n" not in told.value.message
    after = everything(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(name.endswith(("-wal", "-shm")) for name in set(after) - set(before))

    put_back(tmp_path, whole)
    knowledge = service(tmp_path)
    await knowledge.start()
    assert "number7" in (await knowledge.search("kb", "alpha number7"))[0].text
    assert (await knowledge.content("kb", file_id))[0].exists()
    await knowledge.close()


async def test_to_try_a_shared_database_leaves_the_embedded_documents_in_place(
    tmp_path: Path, postgres: Postgres
) -> None:
    file_id = await fill(tmp_path)
    (tmp_path / "files" / f"{file_id}-0123").write_text("a copy for a reader that was killed")
    shared = service(tmp_path, postgres.database())
    await shared.start()
    assert await shared.list() == []
    await shared.close()
    assert [file.name for file in (tmp_path / "files").iterdir()] == [file_id]
    again = service(tmp_path)
    await again.start()
    assert "number9" in (await again.search("kb", "alpha number9"))[0].text
    await again.reindex("kb", file_id)
    (record,) = await again.wait("kb", [file_id])
    assert record.error == ""
    await again.close()
