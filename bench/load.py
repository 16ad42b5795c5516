"""Many for long: 200 open WebSockets and 64 HTTP streams without pause; no error, memory flat, every place free after.

    python -m bench.load [--minutes 10] [--sockets 200] [--streams 64]

The engine is the stand-in of bench.gateway, a chunk in 20 ms. A dialogue asks, reads to its <EOS>, and rests for 5 to
15 s, as people do; a stream asks again at once. Half of the streams use `POST /`, half `/v1/chat/completions`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect

from api.article_socket import EOS
from bench.gateway import CHUNKS, TOKEN, gateway

WHOLE = TOKEN * CHUNKS
PAUSE = 0.02  # seconds before each chunk
PATIENCE = 120.0  # seconds for one answer, waiting in line included


@dataclass
class Report:
    """`memory` holds (seconds since the start, bytes) of Quartet's process; `left` what its status says
    when all clients are gone: answers in flight, questions in line."""

    answers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    left: tuple[int, int] = (0, 0)

    def settled(self, since: float) -> list[tuple[float, int]]:
        """The memory from `since` seconds on."""
        return [(second, size) for second, size in self.memory if second >= since]


class Crowd:
    """All the clients of one run, until `end` (of time.monotonic); each gets one answer at least."""

    def __init__(self, port: int, end: float, rest: tuple[float, float]) -> None:
        self.port, self.end, self.rest = port, end, rest
        self.report = Report()

    async def dialogue(self, number: int) -> None:
        """One WebSocket that stays open; every third one has the answers whole, every third one in deltas."""
        dice = random.Random(number)
        settings = ({}, {"use_stream_chat": False}, {"stream_format": "delta"})[number % 3]
        async with connect(f"ws://127.0.0.1:{self.port}/", proxy=None, compression=None) as socket:
            await socket.send(json.dumps({"system_prompt": "Be brief.", **settings}))
            await self._frames(socket)
            await asyncio.sleep(dice.uniform(0, self.rest[1]))
            over = False
            while not over:
                await socket.send(json.dumps({"prompt": f"{number}: go on", "history": []}))
                frames = await self._frames(socket)
                text = "".join(frames) if "stream_format" in settings else frames[-1]
                self._got("WebSocket", text)
                over = time.monotonic() >= self.end
                await asyncio.sleep(min(dice.uniform(*self.rest), max(0, self.end - time.monotonic())))

    async def _frames(self, socket: ClientConnection) -> list[str]:
        frames: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while (frame := await socket.recv()) != EOS:
                frames.append(str(frame))
        return frames

    async def stream(self, number: int) -> None:
        """One connection that asks again and again."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            over = False
            while not over:
                async with asyncio.timeout(PATIENCE):
                    if number % 2:
                        body = await self._asked(reader, writer, "/", {"prompt": "go on", "use_stream_chat": True})
                        text = json.loads(body[:-1].rpartition(b"\0")[2])["response"]
                    else:
                        said = {"messages": [{"role": "user", "content": "go on"}], "stream": True}
                        body = await self._asked(reader, writer, "/v1/chat/completions", said)
                        text = TOKEN * body.count(b'"content":"tok "')
                        text += "" if body.endswith(b"data: [DONE]\n\n") else " and no end"
                self._got("stream", text)
                over = time.monotonic() >= self.end
        finally:
            writer.close()

    async def _asked(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, said: dict[str, Any]
    ) -> bytes:
        """The body of one answer."""
        data = json.dumps(said).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        if status != b"200":
            raise ConnectionError(f"status {status.decode()}")
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        return b"".join(parts)

    def _got(self, kind: str, text: str) -> None:
        self.report.answers[kind] += 1
        if text != WHOLE:
            self.report.errors.append(f"{kind}: an answer of {len(text)} characters, not {len(WHOLE)}: {text[-200:]}")

    async def watch(self, quartet: psutil.Process, every: float) -> None:
        began = time.monotonic()
        while True:
            self.report.memory.append((time.monotonic() - began, quartet.memory_info().rss))
            await asyncio.sleep(every)

    async def run(self, sockets: int, streams: int, quartet: psutil.Process, every: float) -> None:
        watching = asyncio.create_task(self.watch(quartet, every))
        clients = [self.dialogue(number) for number in range(sockets)] + [self.stream(n) for n in range(streams)]
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if ended is not None:
                self.report.errors.append(f"a client ended with {type(ended).__name__}: {ended}")
        watching.cancel()


def status(port: int) -> dict[str, Any]:
    import httpx

    found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/api/status", timeout=60, trust_env=False).json()
    return found["model"]  # type: ignore[no-any-return]


def load(seconds: float, sockets: int, streams: int, rest: tuple[float, float], every: float) -> Report:
    """Run it all; afterwards wait up to 30 s until nothing is left."""
    with gateway(PAUSE) as (_, port, quartet):
        crowd = Crowd(port, time.monotonic() + seconds, rest)
        asyncio.run(crowd.run(sockets, streams, quartet, every))
        deadline = time.monotonic() + 30
        while True:
            model = status(port)
            crowd.report.left = (model["in_flight"], model["waiting"])
            if not any(crowd.report.left) or time.monotonic() > deadline:
                return crowd.report
            time.sleep(0.2)


def growth(memory: list[tuple[float, int]]) -> float:
    """The slope of the memory, in bytes per second."""
    slope: float = statistics.linear_regression(*zip(*memory, strict=True)).slope
    return slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument("--streams", type=int, default=64)
    given = parser.parse_args()
    report = load(given.minutes * 60, given.sockets, given.streams, (5.0, 15.0), every=2.0)
    after = report.settled(60)
    print(f"{given.sockets} open WebSockets and {given.streams} streams for {given.minutes:g} minutes")
    print("  answers: " + ", ".join(f"{count} by {kind}" for kind, count in sorted(report.answers.items())))
    print(f"  errors: {len(report.errors)}")
    first, last = after[0][1] / 2**20, after[-1][1] / 2**20
    most = max(size for _, size in after) / 2**20
    print(f"  memory after a minute {first:.0f} MiB, at the end {last:.0f} MiB, at most {most:.0f} MiB;")
    print(f"  slope {growth(after) * 60 / 2**20:+.2f} MiB a minute")
    print(f"  left at the end: {report.left[0]} in flight, {report.left[1]} in line")
    for line in report.errors[:20]:
        print("  " + line)
    sys.exit(bool(report.errors or any(report.left)))


if __name__ == "__main__":
    main()
