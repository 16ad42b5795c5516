"""A knowledge base moves between stores as one archive and answers as before; hostile archives are refused."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import app
from backends.errors import Conflict, InvalidRequest
from rag.knowledge import KnowledgeService
from rag.owners import key_of
from rag.sqlite_store import SqliteStore
from rag.stores import open_store
from rag.transfer import export_base, import_base
from tests.postgres import Postgres
from tests.rag.hashed_embeddings import HashedEmbeddings
from tests.running_server import clean_environment

TEXTS = {
    "pump.txt": "The warranty of the pump lasts 36 months.\n\n" + "Filler about gardens and hedges. " * 60,
    "水泵.md": "# 保修\n\n水泵的保修期为三十六个月。\n\n# 屋顶\n\n屋顶由铜制成。",
}
QUESTIONS = ("How long is the warranty?", "gardens", "水泵的保修期", "屋顶")


async def make(data: Path, url: str = "") -> None:
    """A base “kb” of two searchable files and one that cannot be read."""
    knowledge = KnowledgeService(data, embeddings=HashedEmbeddings(), database_url=url)
    await knowledge.start()
    await knowledge.create("kb")
    ids = []
    for name, text in {**TEXTS, "empty.txt": " "}.items():
        source = data / "source"
        source.write_text(text)
        ids.append((await knowledge.add_file("kb", name, source)).id)
    await knowledge.wait("kb", ids)
    await knowledge.close()


async def answers(data: Path, url: str = "", base: str = "kb") -> list[list[tuple[str, float, str, int | None, str]]]:
    knowledge = KnowledgeService(data, embeddings=HashedEmbeddings(), database_url=url)
    await knowledge.start()
    records = await knowledge.wait(base, [record.id for record in await knowledge.files(base)])
    assert sorted((r.name, r.state) for r in records) == [
        ("empty.txt", "failed"), ("pump.txt", "searchable"), ("水泵.md", "searchable"),
    ]  # fmt: skip
    found = []
    for question in QUESTIONS:
        hits = await knowledge.search(base, question)
        found.append([(hit.text, hit.score, hit.file, hit.page, hit.heading) for hit in hits])
    for record in records:
        path, _ = await knowledge.content(base, record.id)
        assert path.read_text() == {**TEXTS, "empty.txt": " "}[record.name]
    await knowledge.close()
    return found


async def test_from_the_embedded_store_to_the_shared_one_and_back_with_the_same_answers(
    tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.database()
    await make(tmp_path / "a")
    before = await answers(tmp_path / "a")
    assert all(before)
    steps = [(tmp_path / "a", "", tmp_path / "b", url), (tmp_path / "b", url, tmp_path / "c", "")]
    for number, (from_dir, from_url, to_dir, to_url) in enumerate(steps):
        archive = tmp_path / f"{number}.zip"
        store = open_store(from_dir, from_url)
        done = export_base(store, from_dir, "kb", archive)
        assert (done.files, done.waiting) == (3, 1)
        assert done.passages > 2
        store.close()
        to_dir.mkdir()
        store = open_store(to_dir, to_url)
        assert import_base(store, to_dir, archive) == done
        with pytest.raises(Conflict, match="kb"):
            import_base(store, to_dir, archive)
        store.close()
        assert not list(to_dir.glob("import-*"))
        assert await answers(to_dir, to_url) == before


async def test_what_is_a_users_goes_to_whoever_it_is_given_to(tmp_path: Path) -> None:
    await make(tmp_path / "a")
    with closing(open_store(tmp_path / "a", "")) as store:
        export_base(store, tmp_path / "a", "kb", tmp_path / "kb.zip")
        assert import_base(store, tmp_path / "a", tmp_path / "kb.zip", owner="bob").name == "kb"
        export_base(store, tmp_path / "a", key_of("bob", "kb"), tmp_path / "of bob.zip")
        import_base(store, tmp_path / "a", tmp_path / "of bob.zip", owner="eve")
        assert [(base.owner, base.name, base.files) for base in store.bases()] == [
            ("", "kb", 3), ("bob", "kb", 3), ("eve", "kb", 3),
        ]  # fmt: skip


async def test_vectors_of_another_model_are_left_out_and_the_files_read_again(tmp_path: Path) -> None:
    await make(tmp_path / "a")
    before = await answers(tmp_path / "a")
    store = open_store(tmp_path / "a", "")
    export_base(store, tmp_path / "a", "kb", tmp_path / "kb.zip")
    with pytest.raises(Conflict, match=r"kb\.zip"):
        export_base(store, tmp_path / "a", "kb", tmp_path / "kb.zip")
    store.close()
    other = open_store(tmp_path / "b", "")
    other.ask_for_model("", "another model")
    done = import_base(other, tmp_path / "b", tmp_path / "kb.zip", "新")
    assert (done.name, done.files, done.passages, done.waiting) == ("新", 3, 0, 3)
    other.close()
    assert await answers(tmp_path / "b", base="新") == before


async def test_a_model_that_is_named_and_not_here_yet_does_not_get_the_vectors_of_another(tmp_path: Path) -> None:
    await make(tmp_path / "a")
    with closing(open_store(tmp_path / "a", "")) as store:
        export_base(store, tmp_path / "a", "kb", tmp_path / "kb.zip")
    with closing(open_store(tmp_path / "b", "")) as other:
        done = import_base(other, tmp_path / "b", tmp_path / "kb.zip", model="somebody/never-downloaded")
        assert (done.files, done.passages, done.waiting) == (3, 0, 3)
        assert other.embedding_model() is None


async def test_a_log_of_the_same_line_over_and_over_comes_back(tmp_path: Path) -> None:
    knowledge = KnowledgeService(tmp_path / "a", embeddings=HashedEmbeddings())
    await knowledge.start()
    await knowledge.create("logs")
    log = tmp_path / "pump.txt"
    log.write_text("The pump is running.\n" * 300_000)
    (record,) = await knowledge.wait("logs", [(await knowledge.add_file("logs", "pump.txt", log)).id])
    assert record.state == "searchable"
    await knowledge.close()
    with closing(open_store(tmp_path / "a", "")) as store:
        export_base(store, tmp_path / "a", "logs", tmp_path / "logs.zip")
    with closing(open_store(tmp_path / "b", "")) as other:
        done = import_base(other, tmp_path / "b", tmp_path / "logs.zip")
        assert (done.files, done.passages) == (1, record.passages)


def test_the_commands_say_what_they_did_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(app.os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(app, "quiet_libraries", lambda environment: None)  # this process is not only the app's
    store = open_store(tmp_path / "a", "")
    store.create_base("笔记")
    store.close()
    archive = str(tmp_path / "kb.zip")
    assert app.main(["export", "笔记", archive, "--data-dir", str(tmp_path / "a")]) == 0
    assert app.main(["import", archive, "--name", "notes", "--data-dir", str(tmp_path / "a")]) == 0
    assert "“notes”: 0 files" in capsys.readouterr().out
    for command in (["export", "nowhere", archive + "2"], ["import", archive, "--name", "notes"], ["import", "/no"]):
        assert app.main([*command, "--data-dir", str(tmp_path / "a")]) == 2
        told = capsys.readouterr().err
        assert told.startswith("Quartet: ")
        assert told.count("\n") == 1
    with app.claim(tmp_path / "a"):
        pass


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with its members changed, and the checksums of those in the manifest made right."""
    with zipfile.ZipFile(source) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return target


def set_manifest(members: dict[str, bytes], **fields: object) -> None:
    members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), **fields}).encode()


def replace(members: dict[str, bytes], name: str, data: bytes) -> None:
    members[name] = data
    sums = json.loads(members["manifest.json"])["sha256"]
    set_manifest(members, sha256={**sums, name: hashlib.sha256(data).hexdigest()})


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], object), allow_pickle=True)
    return out.getvalue()


HOSTILE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "a path out of the folder": lambda m: m.update({"../../evil": b"x"}),
    "a member too many": lambda m: m.update({"contents/99": b"x"}),
    "a member too few": lambda m: m.pop("contents/0") and None,
    "a bomb": lambda m: replace(m, "contents/0", b"\0" * 50_000_000),
    "a wrong checksum": lambda m: m.update({"contents/0": b"other bytes"}),
    "a right checksum of other bytes": lambda m: replace(m, "contents/0", b"other bytes"),
    "a pickle for vectors": lambda m: replace(m, "vectors.npy", pickled()),
    "too few vectors": lambda m: replace(m, "vectors.npy", m["vectors.npy"][:-4]),
    "no JSON": lambda m: m.update({"manifest.json": b"[[["}),
    "another format": lambda m: set_manifest(m, format=2),
    "wrong types": lambda m: set_manifest(m, files=[{"name": 7}]),
    "a list for a manifest": lambda m: m.update({"manifest.json": b"[]"}),
    "a passage too many": lambda m: replace(m, "passages.jsonl", m["passages.jsonl"] * 2),
    "a name of control characters": lambda m: set_manifest(m, name="a\x07b"),
}


def all_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("quartet.db")}


async def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    await make(tmp_path / "a")
    store = open_store(tmp_path / "a", "")
    export_base(store, tmp_path / "a", "kb", tmp_path / "kb.zip")
    store.close()
    to = tmp_path / "b"
    empty = SqliteStore(to)
    (tmp_path / "text.zip").write_text("no zip file")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "kb.zip").read_bytes()[:-300])
    bad = [tmp_path / "text.zip", tmp_path / "cut.zip"]
    bad += [rewrite(tmp_path / "kb.zip", tmp_path / f"{n}.zip", change) for n, change in enumerate(HOSTILE.values())]
    for name, archive in zip(["no zip", "cut off", *HOSTILE], bad, strict=True):
        before = all_files(tmp_path)
        with pytest.raises(InvalidRequest, match=r"archive cannot be imported|must not hold control"):
            import_base(empty, to, archive, "safe")
        assert all_files(tmp_path) == before, name
        assert empty.bases() == []
    assert import_base(empty, to, tmp_path / "kb.zip").files == 3
    empty.close()
