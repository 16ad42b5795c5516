"""What every store promises: one suite, passed by the embedded one and by a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.errors import Conflict, NotFound
from rag.postgres_store import PostgresStore
from rag.sql_store import SqlStore
from rag.sqlite_store import SqliteStore
from rag.store import NewFile, NewPassage
from rag.words import words
from tests.postgres import Postgres
from tests.rag.hashed_embeddings import HashedEmbeddings

MODEL = HashedEmbeddings()
OpenStore = Callable[[], SqlStore]


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the store of this test, again and again. Whatever is left open is closed at the end."""
    opened: list[SqlStore] = []
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.database()

    def open_one() -> SqlStore:
        opened.append(SqliteStore(tmp_path) if request.param == "sqlite" else PostgresStore(url))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def store(open_store: OpenStore) -> SqlStore:
    store = open_store()
    store.ask_for_model("", MODEL.name)
    store.create_base("kb")
    return store


def begin(store: SqlStore, file_id: str, *texts: str, name: str = "", base: str = "kb") -> None:
    """A file with its passages stored and no vectors yet."""
    store.add_file(base, NewFile(file_id, name or f"{file_id}.txt", 1, sha256=file_id))
    store.parsed(file_id, None, [NewPassage(text, words(text), None, "") for text in texts], "")


def embed(store: SqlStore, file_id: str) -> None:
    ids = store.passages_without_vector(file_id)
    store.add_vectors(file_id, ids, MODEL.passage_vectors(store.passage_texts(ids)))


def add(store: SqlStore, file_id: str, *texts: str, name: str = "", base: str = "kb") -> list[str]:
    begin(store, file_id, *texts, name=name, base=base)
    embed(store, file_id)
    return store.finish(file_id)


def found(store: SqlStore, query: str, base: str = "kb") -> set[str]:
    return {c.text for c in store.candidates(base, words(query), MODEL.query_vector(query), 10).passages}


def by_keyword(store: SqlStore, query: str) -> set[str]:
    return {c.text for c in store.candidates("kb", words(query), None, 10).passages}


def test_a_file_is_invisible_until_it_is_finished(store: SqlStore) -> None:
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


def test_what_is_found_survives_a_restart(open_store: OpenStore) -> None:
    first = open_store()
    first.create_base("知识库")
    add(first, "a", "alpha", base="知识库")
    first.close()
    second = open_store()
    assert found(second, "alpha", "知识库") == {"alpha"}
    assert [base.name for base in second.bases()] == ["知识库"]
    second.close()


def test_a_newer_file_of_the_same_name_replaces_the_older_in_one_step(store: SqlStore) -> None:
    add(store, "v1", "alpha old", name="guide.txt")
    begin(store, "v2", "alpha new", name="guide.txt")
    embed(store, "v2")
    assert found(store, "alpha") == {"alpha old"}
    assert store.finish("v2") == ["v1"]
    assert found(store, "alpha") == by_keyword(store, "alpha") == {"alpha new"}
    assert [file.id for file in store.files("kb")] == ["v2"]


def test_a_file_overtaken_by_a_newer_one_of_its_name_is_dropped(store: SqlStore) -> None:
    begin(store, "v1", "alpha old", name="guide.txt")
    begin(store, "v2", "alpha new", name="guide.txt")
    embed(store, "v2")
    assert store.finish("v2") == ["v1"]
    store.add_vectors("v1", [1], MODEL.passage_vectors(["alpha old"]))  # its worker has not noticed yet
    assert store.finish("v1") == []
    assert found(store, "alpha") == {"alpha new"}


def test_the_same_content_is_recognised_and_a_failed_one_tried_again(store: SqlStore) -> None:
    add(store, "a", "alpha")
    again, gone = store.add_file("kb", NewFile("b", "other name.txt", 1, sha256="a"))
    assert (again.id, again.state, gone) == ("a", "searchable", [])
    store.add_file("kb", NewFile("c", "c.pdf", 1, sha256="c"))
    store.fail("c", "damaged", "It is damaged.")
    assert store.file("kb", "c").error == "It is damaged."
    retried, _ = store.add_file("kb", NewFile("d", "c.pdf", 1, sha256="c"))
    assert (retried.id, retried.state, retried.error) == ("c", "uploaded", "")


def test_a_file_changed_to_what_another_one_says_goes_in_the_same_step(store: SqlStore) -> None:
    add(store, "a", "alpha")
    add(store, "b", "beta")
    record, gone = store.add_file("kb", NewFile("c", "b.txt", 1, sha256="a"))
    assert (record.id, record.name, gone) == ("a", "a.txt", ["b"])
    assert [file.id for file in store.files("kb")] == ["a"]
    assert found(store, "beta") == {"alpha"}


def test_a_file_changed_to_what_is_still_being_read_goes_when_that_is_found(store: SqlStore) -> None:
    add(store, "a", "alpha")
    begin(store, "b", "beta", name="copy.txt")
    assert store.add_file("kb", NewFile("c", "a.txt", 1, sha256="b"))[1] == []
    assert found(store, "alpha") == {"alpha"}
    embed(store, "b")
    assert store.finish("b") == ["a"]
    assert [file.name for file in store.files("kb")] == ["copy.txt"]


def test_a_file_stays_when_what_it_was_changed_to_cannot_be_read(store: SqlStore) -> None:
    add(store, "a", "alpha")
    begin(store, "b", "beta", name="copy.txt")
    store.add_file("kb", NewFile("c", "a.txt", 1, sha256="b"))
    store.fail("b", "no_text", "It holds no text.")
    assert [(file.name, file.state) for file in store.files("kb")] == [("a.txt", "searchable"), ("copy.txt", "failed")]
    assert found(store, "alpha") == {"alpha"}


def test_a_failed_file_comes_again_under_its_new_name_and_behind_the_others(store: SqlStore) -> None:
    store.add_file("kb", NewFile("c", "c.txt", 1, sha256="c"))
    store.fail("c", "damaged", "The content is a PDF: rename it to end in .pdf.")
    store.add_file("kb", NewFile("d", "d.txt", 1, sha256="d"))
    assert store.add_file("kb", NewFile("e", "c.pdf", 1, sha256="c"))[0].name == "c.pdf"
    assert [(job.file_id, job.name) for job in store.jobs()] == [("d", "d.txt"), ("c", "c.pdf")]


def test_who_reads_a_file_is_told_that_it_is_not_wanted_any_more(store: SqlStore) -> None:
    store.add_file("kb", NewFile("a", "a.txt", 1, "a"))
    assert store.parsing("a", 0.1, None)
    store.fail("a", "cancelled", "It was cancelled.")
    assert not store.parsing("a", 0.2, None)
    assert store.file("kb", "a").state == "failed"


def test_jobs_are_in_order_of_arrival_and_know_what_is_done(store: SqlStore) -> None:
    store.add_file("kb", NewFile("a", "a.txt", 1, "a"))
    begin(store, "b", "beta")
    add(store, "c", "gamma")
    assert [(job.base, job.file_id, job.parsed) for job in store.jobs()] == [("kb", "a", False), ("kb", "b", True)]


def test_a_file_deleted_on_its_way_stays_deleted(store: SqlStore) -> None:
    begin(store, "a", "alpha")
    ids = store.passages_without_vector("a")
    store.delete_file("kb", "a")
    store.parsed("a", None, [NewPassage("alpha", ["alpha"], None, "")], "")
    store.add_vectors("a", ids, MODEL.passage_vectors(["alpha"]))
    assert store.finish("a") == []
    store.fail("a", "damaged", "late")
    assert store.files("kb") == []
    assert found(store, "alpha") == set()


def test_bases_do_not_see_each_other(store: SqlStore) -> None:
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


def test_names_are_unique(store: SqlStore) -> None:
    with pytest.raises(Conflict, match="kb"):
        store.create_base("kb")


def test_the_index_kept_in_step_is_the_one_made_anew(open_store: OpenStore) -> None:
    store = open_store()
    store.create_base("kb")
    assert found(store, "alpha") == set()  # the index of an empty base
    for n in range(6):
        add(store, f"f{n}", f"alpha number{n}", f"beta number{n}")
        assert len(found(store, "alpha")) == min(10, 2 * (n + 1))
    store.delete_file("kb", "f1")
    add(store, "g", "alpha again", name="f2.txt")
    kept = found(store, "alpha beta")
    store.close()
    anew = open_store()
    assert found(anew, "alpha beta") == kept
    anew.close()


def test_searches_see_a_file_whole_or_not_at_all(store: SqlStore) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def search() -> None:
        while not stop.is_set():
            seen.append(len(store.candidates("kb", ["alpha"], MODEL.query_vector("alpha"), 100).passages))

    with ThreadPoolExecutor(4) as readers:
        searching = [readers.submit(search) for _ in range(4)]
        for n in range(15):
            add(store, f"f{n}", *[f"alpha {n} {part}" for part in range(5)])
            if n % 3 == 2:
                store.delete_file("kb", f"f{n - 1}")
        stop.set()
    assert [search.exception() for search in searching] == [None] * 4
    assert max(seen) > 15
    assert {count % 5 for count in seen} == {0}


def test_hostile_words_cannot_break_out_of_the_keyword_query(store: SqlStore) -> None:
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


def test_a_job_is_claimed_by_one_and_lost_by_who_does_not_renew_it(store: SqlStore) -> None:
    for name in ("a", "b"):
        store.add_file("kb", NewFile(name, f"{name}.txt", 1, name))
    assert store.waiting() == 2
    first, second = store.claim("one", 60), store.claim("two", 0.0)
    assert first
    assert second
    assert (first.file_id, second.file_id) == ("a", "b")
    again = store.claim("three", 60)  # the claim of "two" is over already
    assert again
    assert again.file_id == "b"
    assert store.claim("four", 60) is None
    store.renew("one", [], 0.0)  # of other files: this claim stays as long as it was
    assert store.claim("four", 60) is None
    store.renew("one", ["a"], 0.0)
    taken = store.claim("four", 60)
    assert taken
    assert taken.file_id == "a"
    store.release("four", "a")
    store.release("one", "b")  # not its own
    given_back = store.claim("five", 60)
    assert given_back
    assert given_back.file_id == "a"
    assert store.claim("six", 60) is None


def test_two_who_work_on_one_file_do_not_hurt_each_other(store: SqlStore) -> None:
    begin(store, "a", "alpha one", "beta two")
    stale = store.passages_without_vector("a")
    store.parsed("a", None, [NewPassage("gamma", ["gamma"], None, "")], "")  # the second one parses it anew
    store.add_vectors("a", stale, MODEL.passage_vectors(["x"] * len(stale)))  # passages that are gone
    assert store.finish("a") == []
    assert store.file("kb", "a").state == "embedding"
    embed(store, "a")
    embed(store, "a")
    ids = store.passages_without_vector("a")
    store.add_vectors("a", ids, MODEL.passage_vectors(["x"] * len(ids)))
    store.finish("a")
    store.parsing("a", 0.5, None)  # late
    assert (store.file("kb", "a").state, store.file("kb", "a").passages) == ("searchable", 1)
    assert found(store, "gamma") == {"gamma"}


def test_words_of_any_length_and_odd_characters_are_filed(store: SqlStore) -> None:
    add(store, "a", "x" * 5000 + " tail", "it's \\ a quote ' or \" two", "zero \0 byte")
    assert by_keyword(store, "x" * 5000) == {"x" * 5000 + " tail"}
    assert by_keyword(store, "quote") == {"it's \\ a quote ' or \" two"}
    assert len(by_keyword(store, "byte")) == 1


def test_the_figures_of_words_follow_what_can_be_found(store: SqlStore) -> None:
    add(store, "a", "alpha beta", "alpha gamma", name="one.txt")
    begin(store, "b", "alpha unfinished")

    def frequency(word: str) -> int:
        return store.candidates("kb", [word], None, 10).frequency.get(word, 0)

    assert (frequency("alpha"), frequency("beta"), frequency("unfinished")) == (2, 1, 0)
    add(store, "c", "alpha delta", name="one.txt")
    assert (frequency("alpha"), frequency("beta"), frequency("delta")) == (1, 0, 1)
    store.delete_file("kb", "c")
    assert frequency("alpha") == 0


def test_passages_know_their_neighbours_on_the_page_and_under_the_heading(store: SqlStore) -> None:
    store.add_file("kb", NewFile("a", "a.txt", 1, "a"))
    places = [
        ("one", 1, ""),
        ("two", 1, ""),
        ("three", 1, ""),
        ("four", 2, ""),
        ("five", 2, "Heading"),
        ("six", None, ""),
    ]
    store.parsed("a", 2, [NewPassage(text, [text], page, heading) for text, page, heading in places], "")
    add(store, "b", "alone")
    ids = dict(zip([text for text, _, _ in places], sorted(store.passages_without_vector("a")), strict=True))
    near = store.neighbours([*ids.values(), 10**6])
    assert {text: (near[i].before, near[i].after) for text, i in ids.items()} == {
        "one": ("", "two"), "two": ("one", "three"), "three": ("two", ""), "four": ("", ""), "five": ("", ""),
        "six": ("", ""),
    }  # fmt: skip
    assert (near[ids["two"]].before_id, near[ids["two"]].after_id) == (str(ids["one"]), str(ids["three"]))
    assert store.neighbours([]) == {}


def read_again(store: SqlStore, file_id: str, reading: str, *texts: str) -> None:
    store.reindex("kb", file_id, reading)
    store.parsing(reading, 0.5, None)
    store.parsed(reading, 3, [NewPassage(text, words(text), None, "") for text in texts], "1 of 3 pages read.")


def test_a_file_that_is_read_again_is_found_until_the_new_reading_takes_its_place(store: SqlStore) -> None:
    add(store, "a", "alpha old", "beta old")
    read_again(store, "a", "r", "alpha new", "gamma new", "delta new")
    job = store.claim("one", 60)
    assert job
    assert (job.file_id, job.content, job.name, job.parsed) == ("r", "a", "a.txt", True)
    (record,) = store.files("kb")
    assert (record.state, record.reindexing, record.finished, record.passages) == ("searchable", "embedding", False, 2)
    assert store.bases()[0].files == 1
    assert store.file_ids() == {"a"}
    assert store.reindex("kb", "a", "another").reindexing == "embedding"  # it is under way already
    ids = store.passages_without_vector("r")
    store.add_vectors("r", ids[:1], MODEL.passage_vectors(store.passage_texts(ids[:1])), rate=2.0)
    record = store.file("kb", "a")
    assert (record.passages_per_second, record.seconds_left) == (2.0, 1.0)
    assert found(store, "alpha") == {"alpha old", "beta old"}
    embed(store, "r")
    assert store.finish("r") == []
    assert found(store, "alpha") == {"alpha new", "gamma new", "delta new"}
    assert by_keyword(store, "old") == set()
    record = store.file("kb", "a")
    assert (record.passages, record.pages, record.error) == (3, 3, "1 of 3 pages read.")
    assert (record.reindexing, record.finished, record.seconds_left) == ("", True, None)
    assert store.jobs() == []


def test_a_new_reading_that_fails_or_is_cancelled_leaves_the_file_as_it_was(store: SqlStore) -> None:
    add(store, "a", "alpha old")
    read_again(store, "a", "r1", "alpha new")
    store.fail("a", "cancelled", "It was cancelled.")
    assert store.file("kb", "a").error == ""
    read_again(store, "a", "r2", "alpha new")
    store.fail("r2", "too_slow", "It took too long.")
    record = store.file("kb", "a")
    assert (record.state, record.finished) == ("searchable", True)
    assert "It took too long." in record.error
    assert found(store, "alpha") == {"alpha old"}
    read_again(store, "a", "r3", "alpha new")
    store.delete_file("kb", "a")
    assert store.finish("r3") == []
    assert (store.files("kb"), store.jobs()) == ([], [])
    store.add_file("kb", NewFile("c", "c.pdf", 1, sha256="c"))
    store.fail("c", "damaged", "It is damaged.")
    assert store.reindex("kb", "c", "r4").state == "uploaded"
    with pytest.raises(NotFound):
        store.reindex("kb", "r4", "r5")
