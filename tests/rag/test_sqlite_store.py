from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.errors import Conflict, NotFound, QuartetError
from rag.sqlite_store import SqliteStore
from rag.store import NewFile, NewPassage
from rag.words import words
from tests.rag.hashed_embeddings import HashedEmbeddings

MODEL = HashedEmbeddings()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path)
    store.use_embedding_model(MODEL.name)
    store.create_base("kb")
    yield store
    store.close()


def begin(store: SqliteStore, file_id: str, *texts: str, name: str = "", base: str = "kb") -> None:
    """A file with its passages stored and no vectors yet."""
    store.add_file(base, NewFile(file_id, name or f"{file_id}.txt", 1, sha256=file_id))
    store.parsed(file_id, None, [NewPassage(text, words(text), None, "") for text in texts], "")


def embed(store: SqliteStore, file_id: str) -> None:
    ids = store.passages_without_vector(file_id)
    store.add_vectors(file_id, ids, MODEL.passage_vectors(store.passage_texts(ids)))


def add(store: SqliteStore, file_id: str, *texts: str, name: str = "", base: str = "kb") -> list[str]:
    begin(store, file_id, *texts, name=name, base=base)
    embed(store, file_id)
    return store.finish(file_id)


def found(store: SqliteStore, query: str, base: str = "kb") -> set[str]:
    return {c.text for c in store.candidates(base, words(query), MODEL.query_vector(query), 10).passages}


def by_keyword(store: SqliteStore, query: str) -> set[str]:
    return {c.text for c in store.candidates("kb", words(query), None, 10).passages}


def test_a_file_is_invisible_until_it_is_finished(store: SqliteStore) -> None:
    begin(store, "a", "alpha one", "beta two")
    assert store.file("kb", "a").state == "embedding"
    assert found(store, "alpha") == set()
    ids = store.passages_without_vector("a")
    store.add_vectors("a", ids[:1], MODEL.passage_vectors(store.passage_texts(ids[:1])))
    assert (store.file("kb", "a").passages, store.file("kb", "a").progress) == (1, 0.5)
    assert store.finish("a") == []  # a vector is missing: nothing happens
    assert store.file("kb", "a").state == "embedding"
    assert found(store, "alpha") == set()
    embed(store, "a")
    store.finish("a")
    assert store.file("kb", "a").state == "searchable"
    assert store.file("kb", "a").passages == 2
    assert found(store, "alpha") == {"alpha one", "beta two"}
    assert by_keyword(store, "alpha") == {"alpha one"}


def test_what_is_found_survives_a_restart(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    first.create_base("知识库")
    add(first, "a", "alpha", base="知识库")
    first.close()
    second = SqliteStore(tmp_path)
    assert found(second, "alpha", "知识库") == {"alpha"}
    assert [base.name for base in second.bases()] == ["知识库"]
    second.close()


def test_a_newer_file_of_the_same_name_replaces_the_older_in_one_step(store: SqliteStore) -> None:
    add(store, "v1", "alpha old", name="guide.txt")
    begin(store, "v2", "alpha new", name="guide.txt")
    embed(store, "v2")
    assert found(store, "alpha") == {"alpha old"}
    assert store.finish("v2") == ["v1"]
    assert found(store, "alpha") == by_keyword(store, "alpha") == {"alpha new"}
    assert [file.id for file in store.files("kb")] == ["v2"]


def test_a_file_overtaken_by_a_newer_one_of_its_name_is_dropped(store: SqliteStore) -> None:
    begin(store, "v1", "alpha old", name="guide.txt")
    begin(store, "v2", "alpha new", name="guide.txt")
    embed(store, "v2")
    assert store.finish("v2") == ["v1"]
    store.add_vectors("v1", [1], MODEL.passage_vectors(["alpha old"]))  # its worker has not noticed yet
    assert store.finish("v1") == []
    assert found(store, "alpha") == {"alpha new"}


def test_the_same_content_is_recognised_and_a_failed_one_tried_again(store: SqliteStore) -> None:
    add(store, "a", "alpha")
    again = store.add_file("kb", NewFile("b", "other name.txt", 1, sha256="a"))
    assert (again.id, again.state) == ("a", "searchable")
    store.add_file("kb", NewFile("c", "c.pdf", 1, sha256="c"))
    store.fail("c", "damaged", "It is damaged.")
    assert store.file("kb", "c").error == "It is damaged."
    retried = store.add_file("kb", NewFile("d", "c.pdf", 1, sha256="c"))
    assert (retried.id, retried.state, retried.error) == ("c", "uploaded", "")


def test_jobs_are_in_order_of_arrival_and_know_what_is_done(store: SqliteStore) -> None:
    store.add_file("kb", NewFile("a", "a.txt", 1, "a"))
    begin(store, "b", "beta")
    add(store, "c", "gamma")
    assert [(job.base, job.file_id, job.parsed) for job in store.jobs()] == [("kb", "a", False), ("kb", "b", True)]


def test_deleted_text_is_nowhere_on_the_disk(store: SqliteStore, tmp_path: Path) -> None:
    add(store, "a", "zanzibar42 is a secret word")
    add(store, "b", "quokka17 stays")
    assert b"zanzibar42" in _all_bytes(tmp_path)
    store.delete_file("kb", "a")
    assert found(store, "zanzibar42") == {"quokka17 stays"}
    assert by_keyword(store, "zanzibar42") == set()
    assert b"zanzibar42" not in _all_bytes(tmp_path)
    store.delete_base("kb")
    assert b"quokka17" not in _all_bytes(tmp_path)


def test_a_file_deleted_on_its_way_stays_deleted(store: SqliteStore) -> None:
    begin(store, "a", "alpha")
    ids = store.passages_without_vector("a")
    store.delete_file("kb", "a")
    store.parsed("a", None, [NewPassage("alpha", ["alpha"], None, "")], "")
    store.add_vectors("a", ids, MODEL.passage_vectors(["alpha"]))
    assert store.finish("a") == []
    store.fail("a", "damaged", "late")
    assert store.files("kb") == []
    assert found(store, "alpha") == set()


def test_bases_do_not_see_each_other(store: SqliteStore) -> None:
    store.create_base("other")
    add(store, "a", "alpha here")
    add(store, "b", "alpha there", base="other")
    assert found(store, "alpha") == {"alpha here"}
    assert found(store, "alpha", "other") == {"alpha there"}
    with pytest.raises(NotFound):
        store.file("other", "a")
    store.delete_base("other")
    assert found(store, "alpha") == {"alpha here"}
    with pytest.raises(NotFound, match="other"):
        store.files("other")


def test_names_are_unique(store: SqliteStore) -> None:
    with pytest.raises(Conflict, match="kb"):
        store.create_base("kb")


def test_the_index_kept_in_step_is_the_one_made_anew(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.create_base("kb")
    assert found(store, "alpha") == set()  # the index of an empty base
    for n in range(6):
        add(store, f"f{n}", f"alpha number{n}", f"beta number{n}")
        assert len(found(store, "alpha")) == min(10, 2 * (n + 1))
    store.delete_file("kb", "f1")
    add(store, "g", "alpha again", name="f2.txt")
    kept = found(store, "alpha beta")
    store.close()
    anew = SqliteStore(tmp_path)
    assert found(anew, "alpha beta") == kept
    anew.close()


def test_another_embedding_model_means_new_vectors_and_no_other_loss(store: SqliteStore) -> None:
    add(store, "a", "alpha")
    wider = HashedEmbeddings("wider", dimension=128)
    store.use_embedding_model("wider")
    assert store.file("kb", "a").state == "embedding"
    ids = store.passages_without_vector("a")
    store.add_vectors("a", ids, wider.passage_vectors(store.passage_texts(ids)))
    store.finish("a")
    hits = store.candidates("kb", ["alpha"], wider.query_vector("alpha"), 10).passages
    assert [hit.text for hit in hits] == ["alpha"]
    store.use_embedding_model("wider")
    assert store.file("kb", "a").state == "searchable"


def test_a_damaged_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.create_base("kb")
    add(store, "a", *[f"passage {n} " + "x" * 500 for n in range(100)])
    store.close()
    database = tmp_path / "quartet.db"
    raw = bytearray(database.read_bytes())
    raw[8192:20000] = b"\xff" * (20000 - 8192)
    database.write_bytes(raw)
    with pytest.raises(QuartetError, match=r"damaged.*backup"):
        SqliteStore(tmp_path)


def test_searches_see_a_file_whole_or_not_at_all(store: SqliteStore) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def search() -> None:
        while not stop.is_set():
            seen.append(len(store.candidates("kb", ["alpha"], MODEL.query_vector("alpha"), 100).passages) % 5)

    with ThreadPoolExecutor(4) as readers:
        searching = [readers.submit(search) for _ in range(4)]
        for n in range(15):
            add(store, f"f{n}", *[f"alpha {n} {part}" for part in range(5)])
            if n % 3 == 2:
                store.delete_file("kb", f"f{n - 1}")
        stop.set()
    assert [search.exception() for search in searching] == [None] * 4
    assert len(seen) > 15
    assert set(seen) == {0}


def test_hostile_words_cannot_break_out_of_the_keyword_query(store: SqliteStore) -> None:
    add(store, "a", "alpha beta")
    for query in (
        'alpha" OR "beta',
        "NEAR(alpha beta)",
        "words: alpha",
        "alpha*",
        "^alpha",
        "\x00",
        "'; DROP TABLE files",
    ):
        store.candidates("kb", words(query), None, 10)
    assert by_keyword(store, "alpha AND NOT") == {"alpha beta"}


def test_the_database_syncs_every_commit_and_keeps_its_references(store: SqliteStore, tmp_path: Path) -> None:
    with store._db.read() as db:
        settings = {
            name: db.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with sqlite3.connect(tmp_path / "quartet.db") as plain:
        assert plain.execute("PRAGMA foreign_key_check").fetchall() == []
    plain.close()


def _all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
