"""What only the shared store promises: several apps on one database, a database that goes and comes, large bases."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from backends.errors import QuartetError, StorageUnreachable
from rag.data_folder import DataFolder
from rag.embeddings import Vectors
from rag.knowledge import KnowledgeService
from rag.postgres_store import PostgresStore
from rag.store import NewFile, NewPassage
from tests.postgres import Postgres, running_postgres
from tests.rag.hashed_embeddings import HashedEmbeddings
from tests.rag.test_stores import MODEL, add, found
from tests.running_server import StartServer


def test_what_is_uploaded_to_one_app_is_found_by_the_other(
    start_server: StartServer, postgres: Postgres, tmp_path: Path
) -> None:
    env = {"QUARTET_DATABASE_URL": postgres.database()}
    with ThreadPoolExecutor(2) as both:  # two apps that make the tables at the same moment
        starting = [
            both.submit(start_server, "--data-dir", str(tmp_path / name), env=env) for name in ("first", "second")
        ]
        first, second = [start.result() for start in starting]
    assert first.post("/api/knowledge-bases", json={"name": "共享"}).status_code == 201
    text = "The warranty of the pump lasts 36 months. 水泵保修三十六个月。"
    answer = first.post("/api/knowledge-bases/共享/files?wait=true", files={"files": ("pump.txt", text.encode())})
    (record,) = answer.json()
    assert record["state"] == "searchable", record
    hits = second.post("/api/knowledge-bases/共享/search", json={"query": "How long is the warranty?"}).json()["hits"]
    assert [hit["text"] for hit in hits] == [text]
    content = second.get(f"/api/knowledge-bases/共享/files/{record['id']}/content")
    assert content.content == text.encode()
    assert second.delete(f"/api/knowledge-bases/共享/files/{record['id']}").status_code == 204
    assert first.post("/api/knowledge-bases/共享/search", json={"query": "warranty"}).json() == {"hits": []}
    for name in ("first", "second"):  # the copy that was sent goes right after it was
        deadline = time.monotonic() + 20
        while left := list((tmp_path / name / "files").iterdir()):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    assert "database" not in first.log.lower()


def test_a_copy_whose_download_broke_off_is_taken_away_after_a_while(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    old, new = folder.place("download-old"), folder.place("download-new")
    for copy in (old, new, folder.place("0" * 32)):
        copy.write_text("x")
    os.utime(old, (0, 0))
    folder.tidy()
    assert not old.exists()
    assert new.exists()
    for path in (new, folder.place("0" * 32)):
        folder.sent(path)
    assert {file.name for file in (tmp_path / "files").iterdir()} == {"0" * 32}
    folder.close()


async def test_the_files_of_an_app_that_died_are_taken_over(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database()
    dead = PostgresStore(url)
    dead.ask_for_model("", MODEL.name)
    dead.create_base("kb")
    source = tmp_path / "a.txt"
    source.write_text("alpha beta")
    dead.add_file("kb", NewFile("a", "a.txt", 10, "a"), source)
    assert dead.claim("the one that dies", 1.0)
    dead.parsing("a", 0.1, None)
    dead.close()
    alive = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings(), database_url=url)
    await alive.start()
    (record,) = await alive.wait("kb", ["a"])
    assert record.state == "searchable"
    assert [hit.text for hit in await alive.search("kb", "alpha")] == ["alpha beta"]
    assert list((tmp_path / "data" / "files").iterdir()) == []
    await alive.close()


async def test_a_database_that_goes_is_told_and_one_that_comes_back_is_used(tmp_path: Path) -> None:
    with running_postgres() as server:
        knowledge = KnowledgeService(tmp_path, embeddings=HashedEmbeddings(), database_url=server.database())
        await knowledge.start()
        await knowledge.create("kb")
        source = tmp_path / "a.txt"
        source.write_text("alpha beta")
        await knowledge.wait("kb", [(await knowledge.add_file("kb", "a.txt", source)).id])
        server.stop()
        for _ in range(2):
            with pytest.raises(StorageUnreachable, match="does not answer"):
                await knowledge.search("kb", "alpha")
        server.start()
        assert [hit.text for hit in await knowledge.search("kb", "alpha")] == ["alpha beta"]
        source.write_text("gamma delta")
        (record,) = await knowledge.wait("kb", [(await knowledge.add_file("kb", "b.txt", source)).id])
        assert record.state == "searchable"  # the ingest threads went on, too
        await knowledge.close()


def test_an_address_that_is_none_and_a_database_that_is_not_there_are_told_in_a_sentence(postgres: Postgres) -> None:
    with pytest.raises(QuartetError, match=r"--database-url"):
        PostgresStore("postgresql+psycopg://user:geheim@[broken")
    missing = postgres.database().rpartition("/")[0] + "/nowhere"
    with pytest.raises(StorageUnreachable, match=r"nowhere.*does not answer.*exist"):
        PostgresStore(missing)
    with pytest.raises(StorageUnreachable) as caught:
        PostgresStore("postgresql+psycopg://user:geheim@127.0.0.1:1/db")
    assert "geheim" not in caught.value.message


async def test_a_file_under_way_when_the_database_goes_is_read_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(HashedEmbeddings):
        """Embeds for the first time only when it is let."""

        under_way, go_on = threading.Event(), threading.Event()

        def passage_vectors(self, texts: Sequence[str]) -> Vectors:
            self.under_way.set()
            assert self.go_on.wait(60)
            return super().passage_vectors(texts)

    monkeypatch.setattr("rag.ingest._LEASE", 3.0)
    slow = Slow()
    with running_postgres() as server:
        knowledge = KnowledgeService(tmp_path / "data", embeddings=slow, database_url=server.database())
        await knowledge.start()
        await knowledge.create("kb")
        source = tmp_path / "a.txt"
        source.write_text("alpha beta")
        file_id = (await knowledge.add_file("kb", "a.txt", source)).id
        assert await asyncio.to_thread(slow.under_way.wait, 60)
        server.stop()
        slow.go_on.set()  # neither can the vectors be stored now nor the file be given back
        await asyncio.sleep(1)
        server.start()
        (record,) = await asyncio.wait_for(knowledge.wait("kb", [file_id]), 60)
        assert record.state == "searchable"
        await knowledge.close()


@pytest.mark.parametrize("dimension", [64, 2100, 4100])
def test_a_large_base_gets_an_approximate_index_and_finds_the_same(postgres: Postgres, dimension: int) -> None:
    store = PostgresStore(postgres.database(), large=300)
    store.create_base("small")
    store.create_base("kb")
    chance = np.random.default_rng(0)
    add(store, "s", "alpha in the small base", base="small")
    rows = chance.normal(size=(400, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store.add_file("kb", NewFile("a", "a.txt", 1, "a"))
    store.parsed("a", None, [NewPassage(f"passage {n}", [f"n{n}"], None, "") for n in range(400)], "")
    ids = sorted(store.passages_without_vector("a"))
    store.add_vectors("a", ids, rows)
    store.finish("a")
    with store._database.read() as db:
        made = db.scalars(text("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'vectors_near%'")).all()
    assert len(made) == (dimension <= 4000)
    right = 0
    for query in rows[:20]:
        exact = {ids[n] for n in np.argsort(-(rows @ query))[:10]}
        near = store.candidates("kb", [], query[None], 10).passages
        right += len(exact & {candidate.passage_id for candidate in near})
    assert right >= 0.97 * 200
    assert found(store, "alpha", "small") == {"alpha in the small base"}
    store.delete_base("kb")
    with store._database.read() as db:
        assert not db.scalars(text("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'vectors_near%'")).all()
    store.close()


def test_a_base_that_is_deleted_leaves_the_index_of_another_whose_number_begins_alike(postgres: Postgres) -> None:
    store = PostgresStore(postgres.database(), large=3)
    for number in range(1, 12):
        store.create_base(f"{number}")
    add(store, "a", "alpha", "beta", "gamma", base="11")

    def indexes() -> list[str]:
        with store._database.read() as db:
            query = text("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'vectors_near%'")
            return list(db.scalars(query))

    (name,) = indexes()
    store.delete_base("1")
    assert indexes() == [name]
    store.delete_base("11")
    assert indexes() == []
    store.close()


def test_stores_that_open_at_once_make_the_tables_once(postgres: Postgres) -> None:
    url = postgres.database()
    began = time.monotonic()
    with ThreadPoolExecutor(8) as many:
        for store in many.map(PostgresStore, [url] * 8):
            store.close()
    assert time.monotonic() - began < 60
