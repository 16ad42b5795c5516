"""kill -9 at random moments: what was reported searchable is searchable, and nothing is half there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag.knowledge import KnowledgeService
from tests.rag.hashed_embeddings import HashedEmbeddings

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("QUARTET_TEST_CRASHES", "15"))


@dataclass(frozen=True)
class Seen:
    """How many files were accepted, reported searchable, and are there in the end."""

    accepted: int
    reported: int
    searchable: int


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_killed_at_random_moments_nothing_reported_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    await rounds(tmp_path, ROUNDS)


async def rounds(folder: Path, count: int) -> Seen:
    """`count` kills, each followed by a look at the database; then everything accepted is accounted for."""
    data, journal = folder / "data", folder / "journal"
    chance = random.Random(4)
    for seed in range(count):
        await asyncio.to_thread(_run_and_kill, data, journal, seed, chance.randrange(1, 12), chance.uniform(0.0, 0.2))
        _check_database(data / "quartet.db")
    facts = [json.loads(line) for line in journal.read_text().splitlines()]
    return await _check_service(data, facts, count)


def _run_and_kill(data: Path, journal: Path, seed: int, steps: int, after: float) -> None:
    """Kills it `after` seconds after it has written down `steps` steps, however fast the machine is just now."""
    until = _lines(journal) + steps
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_loop.py")), str(data), str(journal), str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while _lines(journal) < until and time.monotonic() < deadline:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.02)
        time.sleep(after)
        assert process.poll() is None, "it ended by itself"
    finally:
        process.kill()
        process.wait()


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def _check_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        half = db.execute(
            "SELECT f.id, f.passages, count(p.id), count(v.passage_id) FROM files f "
            "LEFT JOIN passages p ON p.file_id = f.id LEFT JOIN vectors v ON v.passage_id = p.id "
            "WHERE f.state = 'searchable' GROUP BY f.id "
            "HAVING f.passages = 0 OR count(p.id) != f.passages OR count(v.passage_id) != f.passages"
        ).fetchall()
        assert half == []
        filed = db.execute("SELECT rowid FROM fts_1_docsize ORDER BY rowid").fetchall()
        searchable = db.execute(
            "SELECT p.id FROM passages p JOIN files f ON f.id = p.file_id WHERE f.state = 'searchable' ORDER BY p.id"
        ).fetchall()
        assert filed == searchable
        doubled = db.execute(
            "SELECT name FROM files WHERE state = 'searchable' GROUP BY name HAVING count(*) > 1"
        ).fetchall()
        assert doubled == []


async def _check_service(data: Path, facts: list[dict[str, Any]], count: int) -> Seen:
    knowledge = KnowledgeService(data, embeddings=HashedEmbeddings())
    began = time.monotonic()
    await knowledge.start()
    assert time.monotonic() - began < 10
    records = await knowledge.wait("kb", [record.id for record in await knowledge.files("kb")])
    assert {record.state for record in records} == {"searchable"}  # what was unfinished was resumed, and no file is bad
    there = {record.id for record in records}
    assert {file.name for file in (data / "files").iterdir()} == there

    accepted = {fact["id"]: (at, fact) for at, fact in enumerate(facts) if fact["what"] == "accepted"}
    deleted = {fact["id"] for fact in facts if fact["what"] in ("deleting", "deleted")}
    last_upload = {fact["name"]: at for at, fact in enumerate(facts) if fact["what"] == "uploading"}
    reported = {fact["id"] for fact in facts if fact["what"] == "searchable"}
    assert len(reported) > count / 2
    for file_id, (at, fact) in accepted.items():
        hits = await knowledge.search("kb", fact["phrase"])
        found = bool(hits) and fact["phrase"] in hits[0].text
        if file_id in there:
            assert found, fact
        else:
            # Gone is only what was deleted, or replaced by a file of its name that was uploaded later.
            assert file_id in deleted or last_upload[fact["name"]] > at, fact
            assert not found, fact
    assert not {fact["id"] for fact in facts if fact["what"] == "deleted"} & there
    await knowledge.close()
    _check_database(data / "quartet.db")
    return Seen(len(accepted), len(reported), len(there))
