from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.errors import Busy, Conflict, EngineFailed, InvalidRequest, NotFound, StorageFull, TooLarge
from rag.embeddings import Vectors, WorkerEmbeddings
from rag.knowledge import KnowledgeService, Limits
from rag.names import file_label
from rag.types import Tuning
from tests import documents
from tests.rag.hashed_embeddings import HashedEmbeddings

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def upload(knowledge: KnowledgeService, base: str, path: Path, name: str = "") -> str:
    return (await knowledge.add_file(base, name or path.name, path)).id


async def test_four_formats_are_found_with_file_and_page(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("手册")
    paths = [
        write(tmp_path, "pump.txt", "The warranty of the pump lasts 36 months."),
        write(tmp_path, "roof.md", "# Roof\n\nThe roof is made of copper.\n\n# Garden\n\nThe hedge is cut in March."),
        write(tmp_path, "report.docx", documents.docx()),
        write(tmp_path, "english.pdf", documents.english_pdf()),
        write(tmp_path, "chinese.pdf", documents.chinese_pdf()),
    ]
    ids = [await upload(knowledge, "手册", path) for path in paths]
    records = await knowledge.wait("手册", ids)
    assert [(record.name, record.state, record.error) for record in records] == [
        (path.name, "searchable", "") for path in paths
    ]
    assert all(record.passages for record in records)
    assert [record.pages is None for record in records] == [True, True, True, False, False]

    (best, *_) = await knowledge.search("手册", "How long does the guarantee for the pump last?")
    assert (best.file, best.page) == ("pump.txt", None)
    (best, *_) = await knowledge.search("手册", "When is the hedge trimmed?")
    assert (best.file, best.heading) == ("roof.md", "Garden")
    for path, record in zip(paths[3:], records[3:], strict=True):
        (hit, *_) = [hit for hit in await knowledge.search("手册", path.stem, 100) if hit.file_id == record.id]
        assert hit.page is not None
        assert 1 <= hit.page <= (record.pages or 0)
        (again, *_) = await knowledge.search("手册", hit.text[:40])
        assert again.file == path.name


async def test_one_bad_file_among_ten_fails_alone_with_its_reason(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("mixed")
    ids = [await upload(knowledge, "mixed", write(tmp_path, f"{n}.txt", f"Fact number {n}.")) for n in range(8)]
    ids.append(await upload(knowledge, "mixed", write(tmp_path, "locked.pdf", documents.password_pdf())))
    ids.append(await upload(knowledge, "mixed", write(tmp_path, "empty.txt", b"")))
    *good, locked, empty = await knowledge.wait("mixed", ids)
    assert {record.state for record in good} == {"searchable"}
    assert (locked.state, locked.reason) == ("failed", "encrypted")
    assert (empty.state, empty.reason) == ("failed", "empty")
    for record in (locked, empty):
        assert record.error.endswith(".")
        assert "/" not in record.error


async def test_a_question_finds_nothing_that_was_deleted(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("kb")
    path = write(tmp_path, "pump.txt", "The zanzibar pump has 36 months of warranty.")
    file_id = await upload(knowledge, "kb", path)
    await knowledge.wait("kb", [file_id])
    stored, name = await knowledge.content("kb", file_id)
    assert (stored.read_bytes(), name) == (path.read_bytes(), "pump.txt")
    await knowledge.delete_file("kb", file_id)
    assert await knowledge.search("kb", "zanzibar pump") == []
    assert not stored.exists()
    left = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert b"zanzibar" not in left
    with pytest.raises(NotFound):
        await knowledge.content("kb", file_id)


async def test_the_same_content_is_stored_once(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("kb")
    path = write(tmp_path, "a.txt", "Some text about pumps.")
    first = await upload(knowledge, "kb", path)
    assert await upload(knowledge, "kb", path, "copy.txt") == first
    assert len(await knowledge.files("kb")) == 1
    assert len(list((tmp_path / "data" / "files").iterdir())) == 1


async def test_a_changed_file_replaces_the_old_one(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("kb")
    old = await upload(knowledge, "kb", write(tmp_path, "guide.txt", "The code of the door is 1111."))
    await knowledge.wait("kb", [old])
    new = await upload(knowledge, "kb", write(tmp_path, "guide.txt", "The code of the door is 2222."))
    assert [record.id for record in await knowledge.wait("kb", [old, new])] == [new]
    assert ["2222" in hit.text for hit in await knowledge.search("kb", "What is the code of the door?")] == [True]


async def test_a_file_changed_to_what_another_one_says_is_found_under_that_name_alone(
    knowledge: KnowledgeService, tmp_path: Path
) -> None:
    await knowledge.create("kb")
    first = await upload(knowledge, "kb", write(tmp_path, "a.txt", "The code of the door is 1111."))
    second = await upload(knowledge, "kb", write(tmp_path, "b.txt", "The code of the gate is 2222."))
    await knowledge.wait("kb", [first, second])
    assert await upload(knowledge, "kb", write(tmp_path, "b.txt", "The code of the door is 1111.")) == first
    assert [(file.id, file.name) for file in await knowledge.files("kb")] == [(first, "a.txt")]
    assert [hit.file for hit in await knowledge.search("kb", "What is the code of the gate?")] == ["a.txt"]
    assert len(list((tmp_path / "data" / "files").iterdir())) == 1


async def test_bytes_that_were_lost_come_back_with_the_next_upload(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("kb")
    path = write(tmp_path, "a.txt", "The code of the door is 1111.")
    file_id = await upload(knowledge, "kb", path)
    await knowledge.wait("kb", [file_id])
    (tmp_path / "data" / "files" / file_id).unlink()
    await knowledge.reindex("kb", file_id)
    (record,) = await knowledge.wait("kb", [file_id])
    assert "upload it again" in record.error
    assert await upload(knowledge, "kb", path) == file_id
    assert (await knowledge.content("kb", file_id))[0].read_bytes() == path.read_bytes()


HOSTILE = [
    "../../etc/passwd.txt", "/etc/passwd.txt", "..\\..\\x.txt", "a\x00b.txt", "\u202egpj.txt", "CON.txt", "a/b/c.txt",
    "-rf.txt", "$(reboot).txt", "<script>.txt", "x" * 400 + ".txt", "\ud800.txt", "知识 库.txt", "a\nb.txt",
]  # fmt: skip


async def test_names_of_files_are_labels_only(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("kb")
    ids = [
        await upload(knowledge, "kb", write(tmp_path, "source", f"text {n}"), name) for n, name in enumerate(HOSTILE)
    ]
    records = await knowledge.wait("kb", ids)
    assert [record for record in records if record.state != "searchable"] == []
    for record in records:
        assert 0 < len(record.name) <= 255
        assert record.name.encode()
        assert not set("/\\\x00\n\u202e") & set(record.name)
        assert record.name.endswith(".txt")
    assert {record.id for record in records} <= set(ids)
    # The bytes of what was replaced go right after the commit that replaces it.
    async with asyncio.timeout(5):
        while names_in(tmp_path / "data" / "files") != {record.id for record in records}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert names_in(tmp_path) == {"data", "source"}
    assert all(len(i) == 32 for i in ids)
    await knowledge.close()


def test_a_name_of_nothing_gets_a_name() -> None:
    assert [file_label(name) for name in ("", "..", "/", "\x00")] == ["unnamed"] * 4


@pytest.mark.parametrize("name", ["知识库", "Ünïcödé", "a/b", "r&d 100%", "👩‍🔬", "x" * 100, "'; DROP TABLE files; --"])
async def test_a_base_may_have_any_unicode_name(tmp_path: Path, name: str) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    assert (await knowledge.create(f"  {name} ")).name == name
    assert [base.name for base in await knowledge.list()] == [name]
    with pytest.raises(Conflict):
        await knowledge.create(name)
    await knowledge.delete(name)
    assert await knowledge.list() == []
    await knowledge.close()


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\x00b", "a\nb", "\u202eabc", "..", "\ud800"])
async def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    with pytest.raises(InvalidRequest):
        await knowledge.create(name)
    await knowledge.close()


async def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("caf\u00e9")
    assert await knowledge.files("cafe\u0301") == []
    await knowledge.close()


async def test_limits_are_named_and_leave_nothing_behind(tmp_path: Path) -> None:
    knowledge = KnowledgeService(
        tmp_path / "data", limits=Limits(file_size=2**20, free_space=0, waiting=2), embeddings=HashedEmbeddings()
    )
    await knowledge.start()
    await knowledge.create("kb")
    with pytest.raises(TooLarge, match="1 MiB"):
        await upload(knowledge, "kb", write(tmp_path, "big.txt", b"x" * (2**20 + 1)))
    with pytest.raises(NotFound):
        await upload(knowledge, "nowhere", write(tmp_path, "a.txt", "text"))
    assert list((tmp_path / "data" / "files").iterdir()) == []
    await knowledge.close()

    full = KnowledgeService(tmp_path / "data", limits=Limits(free_space=2**60), embeddings=HashedEmbeddings())
    await full.start()
    with pytest.raises(StorageFull, match="free some space"):
        await upload(full, "kb", write(tmp_path, "a.txt", "text"))
    await full.close()

    narrow = KnowledgeService(tmp_path / "data", limits=Limits(waiting=0), embeddings=HashedEmbeddings())
    await narrow.start()
    with pytest.raises(Busy):
        await upload(narrow, "kb", write(tmp_path, "a.txt", "text"))
    await narrow.close()


async def test_a_second_app_is_kept_out_of_the_folder(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    script = (
        "import asyncio, sys, pathlib\n"
        "from rag.knowledge import KnowledgeService\n"
        "from backends.errors import Conflict\n"
        "try:\n"
        "    asyncio.run(KnowledgeService(pathlib.Path(sys.argv[1])).start())\n"
        "except Conflict as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    second = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "--data-dir" in second.stdout
    await knowledge.close()
    again = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await again.start()
    await again.close()


async def test_bytes_that_are_nobodys_are_swept_at_the_start(tmp_path: Path) -> None:
    before = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await before.start()
    await before.close()
    (tmp_path / "data" / "files" / "orphan").write_bytes(b"left by a crash")
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    assert list((tmp_path / "data" / "files").iterdir()) == []
    await knowledge.close()


async def test_progress_is_told_again_and_again(
    tmp_path: Path, knowledge: KnowledgeService, embeddings: WorkerEmbeddings
) -> None:
    await asyncio.to_thread(embeddings.query_vector, "warm")
    await knowledge.create("kb")
    text = "\n\n".join(f"Paragraph {n} says something about topic {n}. " * 12 for n in range(60))
    file_id = await upload(knowledge, "kb", write(tmp_path, "long.txt", text))
    changes: list[float] = []
    states: list[str] = []
    last = None
    started = time.monotonic()
    while last is None or not last.finished:
        record = await knowledge.file("kb", file_id)
        if record != last:
            changes.append(time.monotonic())
            states.append(record.state)
            last = record
        await asyncio.sleep(0.05)
    assert last.state == "searchable"
    assert states == sorted(states, key=["uploaded", "parsing", "embedding", "searchable"].index)
    assert states.count("embedding") > 2
    gaps = [after - before for before, after in zip([started, *changes], changes, strict=False)]
    assert max(gaps) < 5  # a second on a machine with nothing else to do


async def test_what_was_unfinished_is_resumed(tmp_path: Path) -> None:
    class Stuck(HashedEmbeddings):
        """A model whose process is always lost."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()
            self.loop = asyncio.get_running_loop()

        def passage_vectors(self, texts: Sequence[str]) -> Vectors:
            self.loop.call_soon_threadsafe(self.asked.set)
            raise EngineFailed("The process was lost.")

    stuck = Stuck()
    first = KnowledgeService(tmp_path / "data", embeddings=stuck)
    await first.start()
    await first.create("kb")
    file_id = await upload(first, "kb", write(tmp_path, "a.txt", "alpha beta"))
    await asyncio.wait_for(stuck.asked.wait(), timeout=60)
    assert (await first.file("kb", file_id)).state == "embedding"
    await first.close()
    second = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await second.start()
    (record,) = await second.wait("kb", [file_id])
    assert record.state == "searchable"
    assert [hit.text for hit in await second.search("kb", "alpha")] == ["alpha beta"]
    await second.close()


async def test_langchain_sees_a_vector_store_and_a_retriever(knowledge: KnowledgeService, tmp_path: Path) -> None:
    await knowledge.create("kb")
    ids = [
        await upload(knowledge, "kb", write(tmp_path, "pump.txt", "The warranty of the pump lasts 36 months.")),
        await upload(knowledge, "kb", write(tmp_path, "roof.txt", "The roof is made of copper.")),
    ]
    await knowledge.wait("kb", ids)
    vectors = knowledge.vector_store("kb")
    (document, score), *_ = await vectors.asimilarity_search_with_score("How long is the warranty?", k=2)
    assert document.metadata["file"] == "pump.txt"
    assert 0.3 < score <= 1
    (relevant, same), *_ = await vectors.asimilarity_search_with_relevance_scores("How long is the warranty?", k=2)
    assert (relevant.page_content, same) == (document.page_content, score)
    (only,) = await knowledge.retriever("kb").ainvoke("How long is the warranty of the pump?")
    assert only.page_content == document.page_content
    assert await knowledge.retriever("kb").ainvoke("hello") == []


async def test_passages_are_as_long_and_answers_as_near_as_the_operator_wants_them(tmp_path: Path) -> None:
    text = "\n\n".join(f"Rule {n}. " + "The pump is checked every week by the keeper. " * 4 for n in range(6))
    found = {}
    for size, threshold in ((300, 0.0), (1000, 1.0)):
        tuning = Tuning(threshold, size)
        service = KnowledgeService(tmp_path / f"{size}", embeddings=HashedEmbeddings(), tuning=tuning)
        await service.start()
        await service.create("kb")
        await service.wait("kb", [await upload(service, "kb", write(tmp_path, "rules.txt", text))])
        hits = await service.search("kb", "Who checks the pump?", 10)
        assert all(len(hit.text) <= size for hit in hits)
        found[size] = len(hits)
        used = await service.retriever("kb", 10).ainvoke("Who checks the pump?")
        assert len(used) == (len(hits) if threshold == 0 else 0)
        await service.close()
    assert found[300] > found[1000] > 0


async def test_an_empty_question_is_refused(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("kb")
    with pytest.raises(InvalidRequest, match="empty"):
        await knowledge.search("kb", " \n")
    with pytest.raises(InvalidRequest, match="top_k"):
        await knowledge.search("kb", "x", 0)
    assert await knowledge.search("kb", "x") == []
    await knowledge.close()


async def test_a_file_that_is_cancelled_fails_stops_the_work_and_can_be_uploaded_again(tmp_path: Path) -> None:
    class Slow(HashedEmbeddings):
        """Embeds the second time only when it is let."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.under_way, self.go_on = threading.Event(), threading.Event()

        def passage_vectors(self, texts: Sequence[str]) -> Vectors:
            self.calls += 1
            if self.calls == 2:
                self.under_way.set()
                assert self.go_on.wait(60)
            return super().passage_vectors(texts)

    slow = Slow()
    knowledge = KnowledgeService(tmp_path / "data", embeddings=slow)
    await knowledge.start()
    await knowledge.create("kb")
    await knowledge.create("other")
    long = write(tmp_path, "long.txt", "\n\n".join(f"alpha{n} " + f"word{n} " * 200 for n in range(60)))
    file_id = await upload(knowledge, "kb", long)
    assert await asyncio.to_thread(slow.under_way.wait, 60)
    with pytest.raises(NotFound):
        await knowledge.cancel("other", file_id)
    record = await knowledge.cancel("kb", file_id)
    assert (record.state, record.reason) == ("failed", "cancelled")
    slow.go_on.set()
    other = await upload(knowledge, "kb", write(tmp_path, "other.txt", "beta"))
    (done,) = await knowledge.wait("kb", [other])  # the threads are free again
    assert done.state == "searchable"
    assert (await knowledge.cancel("kb", other)).state == "searchable"
    assert {hit.file for hit in await knowledge.search("kb", "alpha5")} == {"other.txt"}
    assert await upload(knowledge, "kb", long) == file_id
    (again,) = await knowledge.wait("kb", [file_id])
    assert (again.state, again.reason, again.error) == ("searchable", "", "")
    assert (await knowledge.search("kb", "alpha5"))[0].file == "long.txt"
    await knowledge.close()


async def test_two_files_with_nearly_the_same_text_leave_room_for_others(
    knowledge: KnowledgeService, tmp_path: Path
) -> None:
    await knowledge.create("kb")
    report = "The warranty of the pump lasts 36 months. It begins with the delivery, and the seller keeps a list of it."
    texts = {
        "report.txt": report, "report (final).txt": report + " Final version.", "copy.txt": "Copy.\n\n" + report,
        "motor.txt": "A motor has a warranty of 24 months.", "battery.txt": "The warranty excludes batteries of pumps.",
    }  # fmt: skip
    ids = []
    for name, text in texts.items():
        source = tmp_path / "source"
        source.write_text(text)
        ids.append((await knowledge.add_file("kb", name, source)).id)
    await knowledge.wait("kb", ids)
    hits = await knowledge.search("kb", "How long is the warranty of the pump?", 3)
    assert {"motor.txt", "battery.txt"} < {hit.file for hit in hits}
