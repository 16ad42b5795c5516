"""Keyword search in SQLite: one FTS5 table for each knowledge base over the words of its passages. Commits nothing.

The words themselves stay in the table `passages`; FTS5 keeps only its index of them.
"""

# ruff: noqa: S608  the only thing ever put into a statement as text is a number, formatted as one

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import Connection, bindparam, text

_MATCHES = 2_000  # passages that are compared to find the best
_ENTRIES = 100_000  # of the words' lists, gone through for passages that have all of the words
_COMMON = 1_000  # passages that have a word: counting them again for every change would take long


def create(db: Connection, base_id: int) -> None:
    # The words come cut, lower-cased and folded by rag.words; unicode61 only splits them at the spaces again.
    db.execute(
        text(
            f"CREATE VIRTUAL TABLE fts_{base_id:d} USING fts5("
            "words, content='passages', content_rowid='id', tokenize='unicode61 remove_diacritics 0')"
        )
    )
    db.execute(text(f"CREATE VIRTUAL TABLE ftsv_{base_id:d} USING fts5vocab('fts_{base_id:d}', 'row')"))


def drop(db: Connection, base_id: int) -> None:
    db.execute(text(f"DROP TABLE ftsv_{base_id:d}"))
    db.execute(text(f"DROP TABLE fts_{base_id:d}"))


def add(db: Connection, base_id: int, file_id: str) -> None:
    """Files the stored passages of a file."""
    db.execute(
        text(f"INSERT INTO fts_{base_id:d}(rowid, words) SELECT id, words FROM passages WHERE file_id = :file"),
        {"file": file_id},
    )


def remove(db: Connection, base_id: int, file_id: str) -> None:
    """Takes them out again, while they are still stored. FTS5 only marks the words as gone; optimize writes the index
    anew without them, because deleted text must not lie on the disk any longer."""
    table = f"fts_{base_id:d}"
    db.execute(
        text(
            f"INSERT INTO {table}({table}, rowid, words) SELECT 'delete', id, words FROM passages WHERE file_id = :file"
        ),
        {"file": file_id},
    )
    db.execute(text(f"INSERT INTO {table}({table}) VALUES('optimize')"))


@dataclass(frozen=True)
class Count:
    """In how many passages a word is: counted at `version` of its base, when that had `total` passages."""

    passages: int
    version: int
    total: int

    def holds(self, version: int, total: int) -> bool:
        """A few passages more or less change nothing for a word that thousands have, and for such a word SQLite goes
        through all of them."""
        near = self.passages >= _COMMON and abs(total - self.total) <= self.total / 50
        return near or self.version == version


def search(
    db: Connection, base_id: int, words: Sequence[str], limit: int, at: tuple[int, int], known: dict[str, Count]
) -> tuple[dict[str, int], list[int]]:
    """Returns in how many passages each word is (not those that are in none), and the `limit` best passages. `at` is
    the version of the base and how many passages it has; `known` are counts that were made, and gets new ones.

    Words that very many passages have are not looked for, as long as there are rarer ones: going through all of these
    passages takes long, and what has the common words alone is not among the best."""
    asked = list(dict.fromkeys(words))
    if new := [word for word in asked if word not in known or not known[word].holds(*at)]:
        counted = text(f"SELECT term, doc FROM ftsv_{base_id:d} WHERE term IN :words")
        rows = db.execute(counted.bindparams(bindparam("words", expanding=True)), {"words": new})
        known |= dict.fromkeys(new, Count(0, *at)) | {word: Count(passages, *at) for word, passages in rows}
    frequency = {word: known[word].passages for word in asked if known[word].passages}
    if not frequency:
        return {}, []
    rarest = sorted(frequency, key=lambda word: frequency[word])
    together = list(accumulate(frequency[word] for word in rarest))
    sought = [_quoted(word) for word, matches in zip(rarest, together, strict=True) if matches <= _MATCHES]
    # Where even the rarest word is common: what has it and the next rarest ones, and then some that have it.
    also = [_quoted(word) for word, entries in zip(rarest, together, strict=True) if entries <= _ENTRIES]
    queries = [" OR ".join(sought)] if sought else [" AND ".join(also or [_quoted(rarest[0])]), _quoted(rarest[0])]
    found: dict[int, None] = {}
    for query in queries:
        if len(found) < limit:
            found |= dict.fromkeys(_best(db, base_id, query, limit))
    return frequency, list(found)[:limit]


def _best(db: Connection, base_id: int, query: str, limit: int) -> list[int]:
    """The best of the first `_MATCHES` passages that match."""
    table = f"fts_{base_id:d}"
    first = f"SELECT rowid, rank FROM {table} WHERE {table} MATCH :query LIMIT :matches"
    rows = db.execute(
        text(f"SELECT rowid FROM ({first}) ORDER BY rank LIMIT :limit"),
        {"query": query, "matches": _MATCHES, "limit": limit},
    )
    return list(rows.scalars())


def _quoted(word: str) -> str:
    return f'"{word}"'
