"""What only the embedded store promises: its one file on the disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from backends.errors import NotFound, QuartetError
from rag import fts, index, sqlite, sqlite_store
from rag.sqlite_store import SqliteStore
from tests.rag.test_stores import MODEL, add, by_keyword, found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path)
    store.ask_for_model("", MODEL.name)
    store.create_base("kb")
    yield store
    store.close()


@contextmanager
def listening(engine: Engine, name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)


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


def test_a_large_index_is_kept_for_the_next_start_and_never_trusted_blindly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LARGE", 50)
    texts = [f"alpha{n} beta{n % 7} gamma" for n in range(100)]
    saved = tmp_path / "indexes" / "1.faiss"

    def start() -> SqliteStore:
        store = SqliteStore(tmp_path)
        assert "alpha42 beta0 gamma" in found(store, "alpha42")
        return store

    first = SqliteStore(tmp_path)
    first.create_base("kb")
    add(first, "a", *texts)
    assert "alpha42 beta0 gamma" in found(first, "alpha42")
    first.close()
    whole = saved.read_bytes()
    start().close()
    assert saved.read_bytes() == whole

    saved.write_bytes(whole[:100] + b"x" + whole[101:])  # damaged
    second = start()
    assert saved.read_bytes() != whole[:100] + b"x" + whole[101:]
    add(second, "b", "delta epsilon")  # the copy on disk is of an older commit now
    second.close()
    third = start()
    assert "delta epsilon" in found(third, "delta")
    third.close()

    fourth = SqliteStore(tmp_path)
    fourth.delete_file("kb", "a")
    assert not saved.exists()  # also before anybody searched
    assert found(fourth, "alpha42") == {"delta epsilon"}
    fourth.close()


@pytest.fixture
def patient(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    """A store with an index that must not be made a second time."""
    add(store, "a", "alpha")
    assert found(store, "alpha") == {"alpha"}

    def forbidden(*arguments: object) -> None:
        raise AssertionError("the index was made anew")

    monkeypatch.setattr(sqlite_store, "_build_index", forbidden)
    monkeypatch.setattr(sqlite_store, "_PATIENCE", 60.0)
    return store


def test_a_search_during_the_delete_of_its_base_brings_nothing_back(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "a", "alpha")
    going = store._base_going

    def searched_meanwhile(db: Connection, base_id: int) -> None:
        going(db, base_id)
        assert found(store, "alpha") == {"alpha"}  # the commit is still to come

    monkeypatch.setattr(store, "_base_going", searched_meanwhile)
    store.delete_base("kb")
    assert not store._indexes
    with pytest.raises(NotFound):
        found(store, "alpha")


def test_the_index_of_a_base_that_is_gone_is_removed_at_the_start(tmp_path: Path) -> None:
    left = tmp_path / "indexes" / "7.faiss"
    left.parent.mkdir()
    left.write_bytes(b"of a process that was killed while it deleted the base")
    SqliteStore(tmp_path).close()
    assert not left.exists()


def test_a_search_waits_for_the_index_of_a_commit(patient: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    committed, go_on = threading.Event(), threading.Event()
    changed = patient._changed

    def late(*arguments: Any, **more: Any) -> None:
        committed.set()
        go_on.wait(60)
        changed(*arguments, **more)

    monkeypatch.setattr(patient, "_changed", late)
    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(add, patient, "b", "beta")
        assert committed.wait(60)
        search = threads.submit(found, patient, "beta")
        early = wait([search], timeout=0.5).done
        go_on.set()
        assert not early
        assert "beta" in search.result(60)
        adding.result(60)


def test_commits_come_to_the_index_in_their_order(patient: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = threading.Event(), threading.Event()
    changed = patient._changed

    def crossed(base_id: int, version: int, *arguments: Any, **more: Any) -> None:
        if more["added"] == "b":
            first.set()
            second.wait(60)
        else:
            # The other one is let go when this one is about to wait for it.
            threading.Timer(0.2, second.set).start()
        changed(base_id, version, *arguments, **more)

    monkeypatch.setattr(patient, "_changed", crossed)
    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(add, patient, "b", "beta")
        assert first.wait(60)
        add(patient, "c", "gamma")
        adding.result(60)
    assert {"beta"} <= found(patient, "beta")
    assert {"gamma"} <= found(patient, "gamma")


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


def test_a_common_word_is_counted_again_when_that_would_matter(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fts, "_COMMON", 100)

    def frequency(word: str) -> int:
        return store.candidates("kb", [word], None, 10).frequency[word]

    add(store, "a", *(f"alpha number{n}" for n in range(100)), "beta")
    assert (frequency("alpha"), frequency("beta")) == (100, 1)
    add(store, "b", "alpha beta")
    assert (frequency("alpha"), frequency("beta")) == (100, 2)  # one of a hundred is not worth going through them all
    add(store, "c", *(f"alpha beta place{n}" for n in range(5)))
    assert (frequency("alpha"), frequency("beta")) == (106, 7)
    store.delete_file("kb", "a")
    assert (frequency("alpha"), frequency("beta")) == (6, 6)


def test_looking_up_what_was_found_does_not_go_through_the_base(store: SqliteStore) -> None:
    """SQLite, given passages, files and vectors at once, goes through every passage of the base to find a few."""
    add(store, "a", "needle", *(f"hay{n}" for n in range(30)))
    plans: list[str] = []

    def note(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT passages"):
            plan = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in plan)

    with listening(store._file._engine, "before_cursor_execute", note):
        assert "needle" in found(store, "needle")
    assert plans
    assert all("PRIMARY KEY" in step for step in plans), plans


def test_of_common_words_the_passages_with_all_of_them_are_found(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fts, "_MATCHES", 20)
    add(store, "a", *(f"{word} number{n}" for n in range(50) for word in ("alpha", "beta")), "alpha beta")
    found = [c.text for c in store.candidates("kb", ["alpha", "beta"], None, 10).passages]
    assert "alpha beta" in found
    assert len(found) == 10


def test_a_large_database_is_checked_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHECKED_FIRST", 0)
    file = tmp_path / "quartet.db"
    first = SqliteStore(tmp_path)
    first.create_base("kb")
    add(first, "a", *(f"alpha number{n} " + "filling " * 60 for n in range(300)))
    first.delete_file("kb", "a")
    add(first, "b", *(f"beta number{n} " + "filling " * 60 for n in range(300)))
    first.close()
    again = SqliteStore(tmp_path)
    assert "beta number7 " + "filling " * 60 in found(again, "number7")
    checked(again)
    again.delete_file("kb", "b")
    again.close()
    assert b"filling filling" not in _all_bytes(tmp_path)

    whole = bytearray(file.read_bytes())
    for page in range(len(whole) // 4096 // 2, len(whole) // 4096 - 1):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    file.write_bytes(whole)
    for use in (SqliteStore.bases, lambda store: store.create_base("new")):
        with pytest.raises(QuartetError, match=r"damaged.*backup"):
            use_checked(tmp_path, use)


def use_checked(folder: Path, use: Callable[[SqliteStore], object]) -> None:
    store = SqliteStore(folder)  # raises already where the check was that fast
    try:
        checked(store)
        use(store)
    finally:
        store.close()


def checked(store: SqliteStore) -> None:
    assert store._file._checking
    store._file._checking.join(60)
    assert store._file._checked
