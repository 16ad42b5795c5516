"""A local server engine: a free port, a key, its own word on how far it is, a clear end when it never gets ready."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from backends.engines.server import Launch, LocalServer
from backends.errors import EngineFailed
from backends.types import Progress

SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
started = time.monotonic()
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        ready = time.monotonic() - started > float(os.environ["READY_AFTER"])
        known = self.headers["Authorization"] == "Bearer " + os.environ["KEY"]
        self.send_response(200 if ready and known else 503)
        self.end_headers()
        self.wfile.write(os.environ["SAYS"].encode())
print("reading shard 1 of 2", flush=True)
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def server(tmp_path: Path, code: str = SERVER, patience: float = 20.0, hang: float = 120.0, **env: str) -> LocalServer:
    def launch(port: int, key: str) -> Launch:
        told = {"PORT": str(port), "KEY": key, "READY_AFTER": "0", "SAYS": "{}"}
        return Launch([sys.executable, "-c", code], told | env)

    def progress(lines: Sequence[str]) -> Progress | None:
        return Progress(lines[-1]) if lines else None

    return LocalServer(launch, tmp_path / "engine.log", progress, patience, hang)


async def test_it_is_ready_when_its_health_call_says_so(tmp_path: Path) -> None:
    engine = server(tmp_path, READY_AFTER="0.5")
    reported: list[Progress] = []
    await engine.start(reported.append)
    assert engine.base_url.startswith("http://127.0.0.1:")
    assert len(engine.key) > 40
    assert Progress("reading shard 1 of 2") in reported
    await engine.stop()


async def test_what_health_says_is_believed_over_the_log(tmp_path: Path) -> None:
    engine = server(tmp_path, READY_AFTER="0.5", SAYS='{"stage": "loading weights", "done": 3, "total": 7}')
    reported: list[Progress] = []
    await engine.start(reported.append)
    assert reported[-1] == Progress("loading weights", 3, 7)
    await engine.stop()


async def test_one_that_does_not_get_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    engine = server(tmp_path, patience=0.8, READY_AFTER="600")
    before = time.monotonic()
    with pytest.raises(EngineFailed, match="was not ready after 1 seconds"):
        await engine.start(lambda progress: None)
    assert time.monotonic() - before < 10
    assert await engine.ended() != ""


async def test_one_that_hangs_is_ended_and_one_that_answers_is_not(tmp_path: Path) -> None:
    engine = server(tmp_path, hang=4.0)
    await engine.start(lambda progress: None)
    ended = asyncio.create_task(engine.ended())
    # Left alone for longer than it may hang: it answers.
    assert not (await asyncio.wait([ended], timeout=7.0))[0]
    process = listener_on(engine.base_url)
    process.suspend()
    assert await asyncio.wait_for(ended, 60) == "it hung: its health call was not answered for 4 seconds."
    assert not process.is_running()
    await engine.stop()


def listener_on(url: str) -> psutil.Process:
    """The child that listens on this address."""
    port = urlsplit(url).port
    for child in psutil.Process().children(recursive=True):
        if any(made.status == "LISTEN" and made.laddr.port == port for made in child.net_connections("tcp")):
            return child
    raise AssertionError(f"nobody listens at {url}")


async def test_one_that_ends_says_why(tmp_path: Path) -> None:
    engine = server(tmp_path, "raise RuntimeError('CUDA out of memory')")
    with pytest.raises(EngineFailed, match="The engine did not start: there was not enough memory"):
        await engine.start(lambda progress: None)


TAKEN_ONCE = f"""
import os, pathlib
mark = pathlib.Path(os.environ["MARK"])
if not mark.exists():
    mark.touch()
    raise OSError(98, "Address already in use")
{SERVER}
"""


async def test_a_port_that_was_taken_meanwhile_is_no_failure(tmp_path: Path) -> None:
    engine = server(tmp_path, TAKEN_ONCE, MARK=str(tmp_path / "tried"))
    await engine.start(lambda progress: None)
    assert (tmp_path / "tried").exists()
    await engine.stop()
