"""The event loop never stands still for long, whatever people do: what is slow has a thread or process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import checkpoints, documents
from tests.running_server import ROOT, RunningServer, StartServer, clean_environment

WATCHDOG = Path(__file__).parent / "loop_watchdog"
LIMIT, LONG = 0.05, 0.1  # seconds


def watched(log: Path) -> dict[str, str]:
    """The environment of a process whose event loop is watched."""
    return {"PYTHONPATH": f"{WATCHDOG}:{ROOT}", "LOOP_WATCHDOG_LOG": str(log), "LOOP_WATCHDOG_LIMIT": str(LIMIT)}


@pytest.mark.parametrize(
    "blocking",
    [
        "time.sleep(0.3)",
        "sum(range(20_000_000))",
        "threading.Thread(target=lambda: re.match('(a+)+b', 'a' * 26)).start()",
    ],
    ids=["waits", "computes", "another thread keeps the interpreter"],
)
def test_the_watchdog_notices_a_loop_that_stands_still(blocking: str, tmp_path: Path) -> None:
    code = (
        "import asyncio, re, threading, time, uvloop\n"
        "async def main():\n"
        "    await asyncio.sleep(0.1)\n"
        f"    {blocking}\n"
        "    await asyncio.sleep(0.1)\n"
        "uvloop.run(main())\n"
    )
    log = tmp_path / "still.log"
    subprocess.run([sys.executable, "-c", code], env=clean_environment(watched(log)), timeout=60, check=True)
    assert log.read_text().startswith("the loop stood still for ")


def test_the_watchdog_finds_nothing_in_a_loop_that_only_waits(tmp_path: Path) -> None:
    code = "import asyncio, uvloop\nasync def main():\n    await asyncio.sleep(1)\nuvloop.run(main())\n"
    log = tmp_path / "still.log"
    subprocess.run([sys.executable, "-c", code], env=clean_environment(watched(log)), timeout=60, check=True)
    assert not log.exists(), log.read_text()


@pytest.mark.timeout(400)
def test_the_loop_goes_on_while_people_chat_upload_search_and_switch(start_server: StartServer, tmp_path: Path) -> None:
    still = tmp_path / "still.log"
    server = start_server("--model-path", str(checkpoints.knows_by_heart()), env=watched(still))
    server.wait_for_model()
    server.get("/api/knowledge-bases").raise_for_status()
    still.unlink(missing_ok=True)  # what is imported at the start holds the interpreter now and then
    failures: list[BaseException] = []

    def beside(work: Callable[[RunningServer], None]) -> threading.Thread:
        def run() -> None:
            try:
                work(server)
            except BaseException as failure:  # noqa: BLE001 - told by the test below
                failures.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    for thread in [beside(work) for work in (chats, streams, uploads_and_searches, opens_pages)]:
        thread.join(300)
    chatting = beside(chats)
    switches(server)
    chatting.join(300)
    server.post("/api/models/unload").raise_for_status()
    assert not failures, [(failure, getattr(getattr(failure, "response", None), "text", "")) for failure in failures]
    server.stop()
    told = still.read_text() if still.exists() else ""
    times = [int(time) for time in re.findall(r"^the loop stood still for (\d+) ms", told, re.MULTILINE)]
    # What is done wrong in a request is seen in each of the many above, and what is done wrong once is long. A short
    # one or two may come where the machine is busy with others.
    assert len(times) <= 2, told
    assert max(times, default=0) <= 1000 * LONG, told


def chats(server: RunningServer) -> None:
    with server.client(timeout=120) as client:
        for question in list(checkpoints.QUESTIONS) * 3:
            client.post("/", json={"prompt": question}).raise_for_status()
            client.get("/api/status").raise_for_status()


def streams(server: RunningServer) -> None:
    history = [["question " * 30, "answer " * 30]] * 10
    with server.client(timeout=120) as client:
        for question in list(checkpoints.QUESTIONS) * 3:
            client.post("/", json={"prompt": question, "use_stream_chat": True, "history": history}).raise_for_status()


def uploads_and_searches(server: RunningServer) -> None:
    with server.client(timeout=120) as client:
        client.post("/api/knowledge-bases", json={"name": "busy"}).raise_for_status()
        large = documents.MARKDOWN * 200
        for number in range(3):
            files = [("files", (f"{number}.md", f"{number}\n\n{large}".encode()))]
            files.append(("files", (f"{number}.txt", f"{number} 灯塔里的灯。 {documents.MARKDOWN}".encode())))
            client.post("/api/knowledge-bases/busy/files", files=files).raise_for_status()
            body = {"query": "How deep is the lake? 湖有多深？", "top_k": 4}
            client.post("/api/knowledge-bases/busy/search", json=body).raise_for_status()
            client.get("/api/knowledge-bases/busy/files").raise_for_status()
        answer = client.post("/", json={"prompt": "bees?", "langchain": True, "knowledge_base": "busy"})
        answer.raise_for_status()


def opens_pages(server: RunningServer) -> None:
    with server.client(timeout=120) as client:
        for page in ("/", "/zh/", "/metrics", "/docs", "/api/models"):
            client.get(page, follow_redirects=True).raise_for_status()


def switches(server: RunningServer) -> None:
    with server.client(timeout=120) as client:
        other = {"model_path": str(checkpoints.knows_other_answers())}
        client.post("/api/models/load", json=other).raise_for_status()
        client.post("/api/models/load", json={"model_path": "/nowhere"})
