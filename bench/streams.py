"""Clients that ask for streamed answers again and again, in a process of their own. Knows nothing of who answers.

They count bytes and read no JSON, so that they cost little themselves.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Load:
    """`streams` clients, each asking `answers` times one after the other, of a server on loopback.

    `body` is that of /v1/chat/completions; a whole answer holds `token` `count` times.
    """

    port: int
    streams: int
    answers: int
    body: dict[str, Any]
    token: str
    count: int
    key: str = ""


@dataclass(frozen=True)
class Measured:
    """Answers a second of all clients, and the median of the seconds from a question to the first token."""

    answers_per_second: float
    first: float


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        data = json.dumps(load.body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: application/json\r\n"
        )
        if load.key:
            head += f"Authorization: Bearer {load.key}\r\n"
        self.request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data
        self.token, self.count = load.token.encode(), load.count
        self.got = bytearray()
        self.first = 0.0
        self.over: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.first and self.token in data:
            self.first = time.perf_counter()
        if self.got.endswith(b"0\r\n\r\n") and self.over is not None and not self.over.done():
            self.over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.over is not None and not self.over.done():
            self.over.set_exception(error or ConnectionError("closed in the middle of an answer"))

    async def ask(self) -> float:
        """One answer, whole; the seconds to its first token."""
        assert self.transport is not None
        self.got.clear()
        self.first, self.over = 0.0, asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(self.request)
        await self.over
        if self.got.count(self.token) != self.count:
            raise SystemExit(f"an answer is not whole: {bytes(self.got[:300])!r} ... {bytes(self.got[-300:])!r}")
        return self.first - began


async def run(load: Load) -> Measured:
    """The load, after one answer to each client that is not counted: connections are open then, code is warm."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(load), "127.0.0.1", load.port))[1] for _ in range(load.streams)
    ]
    await asyncio.gather(*(client.ask() for client in clients))
    firsts: list[float] = []

    async def one(client: Client) -> None:
        for _ in range(load.answers):
            firsts.append(await client.ask())

    began = time.perf_counter()
    await asyncio.gather(*(one(client) for client in clients))
    return Measured(load.answers * load.streams / (time.perf_counter() - began), statistics.median(firsts))


def measure(load: Load) -> Measured:
    """The same in a process of its own."""
    command, given = [sys.executable, "-m", "bench.streams"], json.dumps(asdict(load)).encode()
    output = subprocess.run(command, cwd=ROOT, input=given, stdout=subprocess.PIPE, check=True, timeout=900).stdout
    return Measured(**json.loads(output))


if __name__ == "__main__":
    import uvloop

    print(json.dumps(asdict(uvloop.run(run(Load(**json.load(sys.stdin)))))))
