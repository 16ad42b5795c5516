"""The embedding model of a knowledge service is changed while it serves; hashed models, real threads and stores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backends.errors import InvalidRequest, ModelUnusable
from rag.embeddings import PassageEmbeddings, Vectors
from rag.knowledge import KnowledgeService
from rag.model_name import BUNDLED, model_name
from rag.types import EmbeddingStatus
from tests.postgres import Postgres
from tests.rag.hashed_embeddings import HashedEmbeddings
from tests.rag.tiny_embeddings import tiny_model


class Gated(HashedEmbeddings):
    """Embeds passages one call at a time, as it is let."""

    def __init__(self, name: str, dimension: int) -> None:
        super().__init__(name, dimension)
        self.may = threading.Semaphore(0)
        self.asked = threading.Event()

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        self.asked.set()
        assert self.may.acquire(timeout=60)
        return super().passage_vectors(texts)

    def let_go(self) -> None:
        self.may.release(100_000)


class Broken(HashedEmbeddings):
    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        raise ModelUnusable("Its weights are damaged; download it again.")


class Hashed(KnowledgeService):
    """Knows hashed models by hub ids; `changing` is what its change embeds with."""

    def __init__(self, data: Path, *models: HashedEmbeddings, model: str = "hub/old", database_url: str = "") -> None:
        super().__init__(data, model, database_url=database_url)
        self.known = {f"hub/{one.name}": one for one in (HashedEmbeddings("old", 64), *models)}

    def load_model(self, source: str) -> PassageEmbeddings:
        if source not in self.known:
            raise ModelUnusable(f"There is no {source}.")
        return self.known[source]


async def until(knowledge: KnowledgeService, met: Callable[[EmbeddingStatus], bool]) -> EmbeddingStatus:
    async with asyncio.timeout(60):
        while True:
            status = await knowledge.embedding_status()
            if met(status):
                return status
            await asyncio.sleep(0.02)


def settled(status: EmbeddingStatus) -> bool:
    return bool(status.model) and (status.change is None or status.change.state == "failed")


async def filled(knowledge: KnowledgeService, tmp_path: Path, name: str = "a.txt", word: str = "alpha") -> str:
    source = tmp_path / name
    source.write_text("\n\n".join(f"{word}{n} " + f"{word}word " * 150 for n in range(20)))
    record = await knowledge.add_file("kb", name, source)
    (done,) = await knowledge.wait("kb", [record.id])
    assert done.state == "searchable", done.error
    return record.id


async def best(knowledge: KnowledgeService, query: str) -> str:
    return (await knowledge.search("kb", query, 1))[0].text.split()[0]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_searches_and_uploads_go_on_while_the_model_is_changed(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = ""
    if kind == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.database()
    new = Gated("new", 128)
    knowledge = Hashed(tmp_path / "data", new, database_url=url)
    await knowledge.start()
    await until(knowledge, settled)
    await knowledge.create("kb")
    await filled(knowledge, tmp_path)
    gone = await filled(knowledge, tmp_path, "d.txt", "delta")
    stop, found = asyncio.Event(), []

    async def search() -> None:
        while not stop.is_set():
            found.append(await best(knowledge, "alpha7"))

    searching = [asyncio.create_task(search()) for _ in range(3)]
    status = await knowledge.change_embedding_model("hub/new")
    assert status.change
    assert (status.model, status.change.model) == ("hub/old", "hub/new")
    assert await asyncio.to_thread(new.asked.wait, 60)
    new.may.release()
    status = await until(knowledge, lambda s: s.change is not None and s.change.done > 0)
    assert status.change
    assert status.change.state == "building"
    assert status.change.done < status.change.total == 80
    assert status.change.passages_per_second > 0
    assert status.change.seconds_left is not None
    await filled(knowledge, tmp_path, "b.txt", "beta")  # an upload meanwhile is searchable at once
    assert await best(knowledge, "beta3") == "beta3"
    await knowledge.delete_file("kb", gone)  # and what is deleted is gone from both
    assert not (await best(knowledge, "delta3")).startswith("delta")
    new.let_go()
    status = await until(knowledge, settled)
    assert not (await best(knowledge, "delta3")).startswith("delta")
    assert (status.model, status.version, status.change) == ("hub/new", "new", None)
    await filled(knowledge, tmp_path, "c.txt", "gamma")
    assert [await best(knowledge, f"{word}5") for word in ("alpha", "beta", "gamma")] == ["alpha5", "beta5", "gamma5"]
    seen = len(found)
    async with asyncio.timeout(60):
        while len(found) < seen + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*searching)
    assert set(found) == {"alpha7"}
    await knowledge.close()


async def test_a_change_that_fails_says_why_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    knowledge = Hashed(tmp_path / "data", Broken("broken", 32), HashedEmbeddings("good", 32))
    await knowledge.start()
    await until(knowledge, settled)
    await knowledge.create("kb")
    await filled(knowledge, tmp_path)
    for name, why in (("hub/broken", "weights are damaged"), ("hub/none", "There is no hub/none")):
        await knowledge.change_embedding_model(name)
        status = await until(knowledge, settled)
        assert status.change
        assert (status.model, status.change.model) == ("hub/old", name)
        assert why in status.change.error
        assert await best(knowledge, "alpha3") == "alpha3"
    for typed in ("", "http://hub/x", "no such model", str(tmp_path / "nowhere")):
        with pytest.raises(InvalidRequest, match="folder of the server"):
            await knowledge.change_embedding_model(typed)
    await knowledge.change_embedding_model("hub/good")
    assert (await until(knowledge, settled)).model == "hub/good"
    assert await best(knowledge, "alpha3") == "alpha3"
    await knowledge.close()


async def test_a_restart_in_the_middle_goes_on_and_keeps_what_was_chosen(tmp_path: Path) -> None:
    gated = Gated("new", 128)
    first = Hashed(tmp_path / "data", gated)
    await first.start()
    await until(first, settled)
    await first.create("kb")
    await filled(first, tmp_path)
    await first.change_embedding_model("hub/new")
    gated.may.release(1)
    await until(first, lambda s: s.change is not None and s.change.done > 0)
    closing = asyncio.create_task(first.close())
    gated.let_go()
    await closing
    second = Hashed(tmp_path / "data", HashedEmbeddings("new", 128), model="")
    await second.start()
    assert (await until(second, lambda s: settled(s) and s.model == "hub/new")).change is None
    assert await best(second, "alpha3") == "alpha3"
    await second.close()
    third = Hashed(tmp_path / "data", HashedEmbeddings("new", 128), model="")
    await third.start()
    assert (await third.embedding_status()).model == "hub/new"
    await third.close()


async def test_when_the_old_model_is_gone_documents_are_found_by_words_until_the_new_one_is_there(
    tmp_path: Path,
) -> None:
    first = Hashed(tmp_path / "data", HashedEmbeddings("gone", 96), model="hub/gone")
    await first.start()
    await until(first, settled)
    await first.create("kb")
    await filled(first, tmp_path)
    await first.close()
    gated = Gated("new", 128)
    second = Hashed(tmp_path / "data", gated, model="hub/new")
    await second.start()
    assert await asyncio.to_thread(gated.asked.wait, 60)
    status = await second.embedding_status()
    assert "by their words alone" in status.note
    assert await best(second, "alpha3") == "alpha3"
    waiting = asyncio.create_task(filled(second, tmp_path, "b.txt", "beta"))  # waits for a model, and fails for none
    await asyncio.sleep(0.3)
    assert not waiting.done()
    gated.let_go()
    await waiting
    assert await best(second, "beta3") == "beta3"
    assert (await second.embedding_status()).note == ""
    await second.close()


async def test_two_apps_on_one_database_change_together(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    new = Gated("new", 128)
    apps = [Hashed(tmp_path / name, new, database_url=url) for name in ("one", "two")]
    for app in apps:
        await app.start()
    await until(apps[0], settled)
    await apps[0].create("kb")
    await filled(apps[0], tmp_path)
    gone = await filled(apps[0], tmp_path, "d.txt", "delta")
    assert await best(apps[1], "alpha2") == "alpha2"
    await apps[1].change_embedding_model("hub/new")
    assert await asyncio.to_thread(new.asked.wait, 60)
    await filled(apps[0], tmp_path, "b.txt", "beta")  # the one that is not asked may not be the one that changes
    await filled(apps[1], tmp_path, "c.txt", "gamma")
    await apps[1].delete_file("kb", gone)
    for app in apps:
        assert (await app.embedding_status()).model == "hub/old"
        assert [await best(app, word) for word in ("alpha2", "beta2", "gamma2")] == ["alpha2", "beta2", "gamma2"]
    new.let_go()
    for app in apps:
        assert (await until(app, lambda s: settled(s) and s.model == "hub/new")).change is None
        assert [await best(app, word) for word in ("alpha2", "beta2", "gamma2")] == ["alpha2", "beta2", "gamma2"]
        assert not (await best(app, "delta2")).startswith("delta")
    await filled(apps[0], tmp_path, "e.txt", "epsilon")
    assert await best(apps[1], "epsilon2") == "epsilon2"
    for app in apps:
        await app.close()


async def test_a_file_is_read_again_from_its_bytes(tmp_path: Path) -> None:
    knowledge = Hashed(tmp_path / "data", model="")
    knowledge.known[BUNDLED] = HashedEmbeddings(model_name(""), 64)
    await knowledge.start()
    await knowledge.create("kb")
    file_id = await filled(knowledge, tmp_path)
    before = {hit.passage_id for hit in await knowledge.search("kb", "alphaword", 100)}
    record = await knowledge.reindex("kb", file_id)
    assert (record.state, record.reindexing) == ("searchable", "uploaded")
    assert await best(knowledge, "alpha3") == "alpha3"
    (done,) = await knowledge.wait("kb", [file_id])
    assert (done.id, done.reindexing, done.error) == (file_id, "", "")
    after = {hit.passage_id for hit in await knowledge.search("kb", "alphaword", 100)}
    assert len(after) == len(before)
    assert not after & before
    (await knowledge.content("kb", file_id))[0].unlink()
    await knowledge.reindex("kb", file_id)
    (failed,) = await knowledge.wait("kb", [file_id])
    assert failed.state == "searchable"
    assert "still found" in failed.error
    assert await best(knowledge, "alpha3") == "alpha3"
    await knowledge.close()


def test_a_model_is_called_by_its_contents(tmp_path: Path) -> None:
    first, other = tiny_model(tmp_path / "one", 32), tiny_model(tmp_path / "two", 64)
    name = model_name(str(first))
    assert name.startswith("one@")
    assert model_name(str(other)).partition("@")[2] != name.partition("@")[2]
    moved = tmp_path / "elsewhere" / "one"
    moved.parent.mkdir()
    first.rename(moved)
    assert model_name(str(moved)) == name
    weights = moved / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert model_name(str(moved)) != name
    assert model_name("") == model_name(BUNDLED)
    assert model_name("nobody/has-this") == ""
