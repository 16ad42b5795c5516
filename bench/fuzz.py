"""Bodies that are nearly right, thrown at every call of the chat: no 500, no hang, no memory that grows.

    python -m bench.fuzz [--inputs 20000] [--seed 1]

`POST /`, `WS /` and the calls under `/v1` of a real Quartet, with a scripted engine behind it and one small knowledge
base. Each input is made from a number of its own, so that one that fails can be made again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from api.article_dialogue import is_stop
from api.article_socket import EOS
from bench.fuzz_inputs import BASE, Input, make
from tests.running_server import RunningServer, running_server
from tests.scripted_engine import scripted_engine

PATIENCE = 60.0  # seconds; an answer that takes longer is a hang
CLIENTS = 16
WARM = 500  # inputs before memory is read for the first time


@dataclass
class Report:
    """What came of the inputs: `answers` by status (a close code with WS, "frames" for what was answered there),
    `wrong` the inputs that brought a 500 or its like, or nothing in time; memory in bytes."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hangs: int = 0
    memory: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)


async def post(server: RunningServer, sent: Input) -> tuple[str, bytes]:
    """The status and the rest of the answer; "closed" when there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        lines = [f"POST {sent.where} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close"]
        own = [f"{name}: {value}" for name, value in server.headers.items()]
        head = "\r\n".join([*lines, *own, *sent.headers, f"Content-Length: {len(sent.data)}", "", ""]).encode("latin-1")
        writer.write(head + sent.data)
        got = await reader.read()
    except ConnectionError:
        got = b""
    finally:
        writer.close()
    return (got.split(b" ", 2)[1].decode() if got.startswith(b"HTTP/1.1 ") else "closed"), got


async def say(socket: ClientConnection, message: bytes) -> bytes:
    """All frames of the answer to one message."""
    try:
        text = message.decode("utf-8-sig")
    except UnicodeDecodeError:
        await socket.send(message)
        await socket.wait_closed()
        return b""
    await socket.send(text.encode() if len(message) % 2 else text)
    if is_stop(text):
        return b""
    frames: list[str] = []
    while (frame := await socket.recv()) != EOS:
        frames.append(str(frame))
    return "".join(frames).encode("utf-8", "replace")


class Fuzzer:
    """Throws inputs at a server; `numbers` says which."""

    def __init__(self, server: RunningServer, seed: int, numbers: range) -> None:
        self.server, self.seed, self.numbers = server, seed, iter(numbers)
        self.report = Report()

    async def run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        socket: ClientConnection | None = None
        for number in self.numbers:
            sent = make(random.Random(f"{self.seed}/{number}"))
            try:
                async with asyncio.timeout(PATIENCE):
                    if sent.where == "socket":
                        if socket is None or socket.close_code is not None:
                            socket = await self._connected()
                        status, got = await self._frames(socket, sent)
                    else:
                        status, got = await post(self.server, sent)
            except TimeoutError:
                status, got = "hang", b""
                self.report.hangs += 1
                socket = None
            self.report.answers[f"{'WS' if sent.where == 'socket' else 'HTTP'} {status}"] += 1
            if status in ("500", "502", "hang", "closed", "1006", "1011") or b'"code": "internal"' in got:
                self.report.wrong.append(f"{number}: {status} {sent.where} {sent.data[:200]!r} -> {got[-300:]!r}")
        if socket is not None:
            await socket.close()

    async def _connected(self) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.server.port}/"
        return await connect(url, additional_headers=self.server.headers, proxy=None, compression=None)

    async def _frames(self, socket: ClientConnection, sent: Input) -> tuple[str, bytes]:
        try:
            got = await say(socket, sent.data)
        except ConnectionClosed:
            got = b""
        return ("frames" if socket.close_code is None else str(socket.close_code)), got


def fuzz(server: RunningServer, inputs: int, seed: int) -> Report:
    """All of it, against a server that has a model in service. Its memory is read when WARM inputs are over."""
    server.post("/api/knowledge-bases", json={"name": BASE}).raise_for_status()
    files = {"files": ("ferry.txt", b"The ferry leaves at nine in the morning from the northern pier.")}
    with server.client(timeout=180) as client:
        client.post(f"/api/knowledge-bases/{BASE}/files?wait=true", files=files).raise_for_status()
    quartet = psutil.Process(server.process.pid)
    warm = min(WARM, inputs // 2)
    first = Fuzzer(server, seed, range(warm))
    asyncio.run(first.run())
    memory, descriptors = quartet.memory_info().rss, quartet.num_fds()
    second = Fuzzer(server, seed, range(warm, inputs))
    asyncio.run(second.run())
    report = second.report
    report.answers += first.report.answers
    report.wrong += first.report.wrong
    report.hangs += first.report.hangs
    server.delete(f"/api/knowledge-bases/{BASE}").raise_for_status()
    report.memory = (memory, quartet.memory_info().rss)
    report.descriptors = (descriptors, quartet.num_fds())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_engine() as engine,
        running_server(Path(folder), "--engine-url", engine.url) as server,
    ):
        server.wait_for_model()
        began = time.monotonic()
        report = fuzz(server, given.inputs, given.seed)
        queue = server.get("/api/status").json()["queue"]
    before, after = (size / 2**20 for size in report.memory)
    print(f"{given.inputs} inputs in {time.monotonic() - began:.0f} s, seed {given.seed}")
    print("  " + ", ".join(f"{name}: {count}" for name, count in sorted(report.answers.items())))
    print(f"  500s: {len(report.wrong) - report.hangs}, hangs: {report.hangs}, answers still under way: {queue}")
    print(f"  memory after {WARM} inputs {before:.0f} MiB, at the end {after:.0f} MiB ({after / before:.2f} of it)")
    print(f"  open files {report.descriptors[0]} -> {report.descriptors[1]}")
    for line in report.wrong[:20]:
        print("  " + line)
    sys.exit(bool(report.wrong or queue))


if __name__ == "__main__":
    main()
