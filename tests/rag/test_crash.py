"""kill -9 at random moments: what was reported searchable is searchable, and nothing is half there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rag.crash_loop import BASES, MODELS, TwoModels

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("QUARTET_TEST_CRASHES", "12"))

Facts = list[dict[str, Any]]  # what the killed processes had noted, in order


@dataclass
class Seen:
    """How many files were accepted, reported searchable and are there in the end; what each kill interrupted."""

    accepted: int = 0
    reported: int = 0
    searchable: int = 0
    interrupted: Counter[str] = field(default_factory=Counter)


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_killed_at_random_moments_nothing_reported_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    await rounds(tmp_path, ROUNDS, 4)


async def rounds(folder: Path, count: int, seed: int) -> Seen:
    """`count` kills, each followed by a look at the database; then everything accepted is accounted for."""
    chance = random.Random(seed)
    facts: Facts = []
    seen = Seen()
    for number in range(count):
        # Half of them at once after what was noted last, which begins something, half of them somewhere in it.
        after = chance.uniform(0.0, 0.01 if number % 2 else 0.2)
        noted = await asyncio.to_thread(_run_and_kill, folder, 1000 * seed + number, chance.randrange(1, 15), after)
        seen.interrupted[noted[-1]["what"]] += 1
        facts += noted
        await asyncio.to_thread(_check_database, folder, facts)
    await _check_service(folder, facts, seen)
    return seen


def _run_and_kill(folder: Path, seed: int, steps: int, after: float) -> Facts:
    """Kills it `after` seconds after it has noted `steps` steps, however fast the machine is just now."""
    journal = folder / f"journal-{seed}"
    journal.touch()
    loop = Path(__file__).with_name("crash_loop.py")
    process = subprocess.Popen(
        [sys.executable, str(loop), str(folder / "data"), str(journal), str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while journal.read_bytes().count(b"\n") < steps and time.monotonic() < deadline:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.002)
        time.sleep(after)
        assert process.poll() is None, "it ended by itself"
    finally:
        process.kill()
        process.wait()
    noted = [json.loads(line) for line in journal.read_text().splitlines()]
    assert noted, "nothing was done before the kill"
    return noted


def _check_database(folder: Path, facts: Facts) -> None:
    """Looks at a copy: to put the database in order again is left to the next start."""
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    for name in ("quartet.db", "quartet.db-wal"):
        (copy / name).unlink(missing_ok=True)
        if (folder / "data" / name).exists():
            shutil.copy(folder / "data" / name, copy / name)
    (copy / "quartet.db-shm").unlink(missing_ok=True)
    with closing(sqlite3.connect(copy / "quartet.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # One model is in service, and the vectors that are searched are all of it, whatever is being changed to.
        ((slot, model),) = db.execute("SELECT slot, name FROM embedding_models WHERE state = 'serving'").fetchall()
        vectors = ("vectors", "vectors_2")[slot]
        numbers = {there.name: there.description.dimension for there in MODELS.values()}[model]
        lengths = db.execute(f"SELECT DISTINCT length(vector) FROM {vectors}").fetchall()
        assert set(lengths) <= {(4 * numbers,)}
        half = db.execute(
            "SELECT f.id, f.passages, count(p.id), count(v.passage_id) FROM files f "
            f"LEFT JOIN passages p ON p.file_id = f.id LEFT JOIN {vectors} v ON v.passage_id = p.id "
            "WHERE f.state = 'searchable' GROUP BY f.id "
            "HAVING f.passages = 0 OR count(p.id) != f.passages OR count(v.passage_id) != f.passages"
        ).fetchall()
        assert half == []
        for (base,) in db.execute("SELECT id FROM knowledge_bases").fetchall():
            filed = db.execute(f"SELECT rowid FROM fts_{base}_docsize ORDER BY rowid").fetchall()
            searchable = db.execute(
                "SELECT p.id FROM passages p JOIN files f ON f.id = p.file_id "
                "WHERE f.state = 'searchable' AND f.base_id = ? ORDER BY p.id",
                (base,),
            ).fetchall()
            assert filed == searchable
        names = db.execute("SELECT base_id, name FROM files WHERE state = 'searchable'").fetchall()
        assert len(names) == len(set(names)), "a file and what replaced it are both there"
        states = dict(db.execute("SELECT id, state FROM files WHERE renews IS NULL").fetchall())
        places = {(base, name) for base, name in db.execute(
            "SELECT b.name, f.name FROM files f JOIN knowledge_bases b ON b.id = f.base_id WHERE f.state = 'searchable'"
        )}  # fmt: skip
    told = _Told(facts)
    for file_id in told.searchable - told.deleting:
        assert states.get(file_id) == "searchable" or told.place(file_id) in places or told.is_replaced(file_id)
    assert not told.deleted & set(states)


class _Told:
    """What the killed processes were told of each file."""

    def __init__(self, facts: Facts) -> None:
        self.accepted = {fact["id"]: (at, fact) for at, fact in enumerate(facts) if fact["what"] == "accepted"}
        self.searchable = {fact["id"] for fact in facts if fact["what"] == "searchable"}
        self.deleted = {i for fact in facts if fact["what"] == "deleted" for i in fact["ids"]}
        self.deleting = {i for fact in facts if fact["what"] == "deleting" for i in fact["ids"]}
        self._newest = {self.place(i): at for i, (at, _) in self.accepted.items()}

    def place(self, file_id: str) -> tuple[str, str]:
        fact = self.accepted[file_id][1]
        return fact["base"], fact["name"]

    def is_replaced(self, file_id: str) -> bool:
        """Whether a file of its name was accepted later."""
        return self._newest[self.place(file_id)] > self.accepted[file_id][0]


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def _check_service(folder: Path, facts: Facts, seen: Seen) -> None:
    data, told = folder / "data", _Told(facts)
    knowledge = TwoModels(data)
    began = time.monotonic()
    await knowledge.start()
    assert time.monotonic() - began < 30
    there: dict[str, tuple[str, str]] = {}
    for base in await knowledge.list():
        records = await knowledge.wait(base.name, [record.id for record in await knowledge.files(base.name)])
        # What was unfinished was resumed, and no file is bad.
        assert {record.state for record in records} <= {"searchable"}
        assert not any(record.reindexing for record in records)
        there |= {record.id: (base.name, record.name) for record in records}
    assert {base.name for base in await knowledge.list()} <= set(BASES)
    async with asyncio.timeout(60):  # a change that was interrupted goes on, too
        while (await knowledge.embedding_status()).change:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert set(there) <= _names(data / "files")
    async with asyncio.timeout(60):  # the bytes of what was replaced go after the commit that replaces it
        while _names(data / "files") != set(there):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    seen.accepted, seen.reported, seen.searchable = len(told.accepted), len(told.searchable), len(there)
    for file_id, (_, fact) in told.accepted.items():
        place = told.place(file_id)
        if file_id in there:
            hits = await knowledge.search(fact["base"], fact["phrase"])
            assert hits, fact
            assert fact["phrase"] in hits[0].text.split(), fact
            continue
        # Gone is only what was deleted, or replaced by a file of its name that was uploaded later.
        assert file_id in told.deleting or place in there.values() or told.is_replaced(file_id), fact
        for base in await knowledge.list():
            assert not any(
                fact["phrase"] in hit.text.split() for hit in await knowledge.search(base.name, fact["phrase"])
            )
    assert not told.deleted & set(there)
    await knowledge.close()
    _check_database(folder, facts)
