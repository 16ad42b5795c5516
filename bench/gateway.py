"""What Quartet costs between a client and an engine: chunks a second and time to the first one, beside direct.

    python -m bench.gateway

The engine is a stand-in that makes 200 chunks per answer, as fast as it can or one in 10 ms. Stand-in, Quartet and the
client are processes of their own. Direct and through Quartet take turns in one run; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from bench.streams import ROOT, Load, Measured, measure

CHUNKS = 200
MODEL = "stand-in"
TOKEN = "tok "


def stand_in(port: int, pause: float) -> None:
    """Serve `/v1` as engines do, with `pause` seconds before each chunk."""
    import uvicorn

    event = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stand-in","choices":'
    event += b'[{"index":0,"delta":{"content":"tok "},"logprobs":null,"finish_reason":null}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: {"choices":[],"usage":'
    last += b'{"prompt_tokens":7,"completion_tokens":200,"total_tokens":207}}\n\ndata: [DONE]\n\n'

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        models = scope["path"] == "/v1/models"
        kind = b"application/json" if models else b"text/event-stream"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if models:
            data = json.dumps({"data": [{"id": MODEL, "max_model_len": 4096}]}).encode()
            await send({"type": "http.response.body", "body": data})
            return
        for _ in range(CHUNKS):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": last})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def run_load(port: int, streams: int, answers: int) -> Measured:
    """Of the stand-in or what is in front of it: clients in a process of their own."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    return measure(Load(port, streams, answers, body, TOKEN, CHUNKS))


@contextmanager
def process(*arguments: str) -> Iterator[psutil.Process]:
    """A child process that ends with the block."""
    child = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, ready: str = "") -> None:
    """Until the address answers, and what it says holds `ready`."""
    import httpx

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if ready in httpx.get(url, timeout=10, trust_env=False).text:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not answer")


@contextmanager
def gateway(pause: float) -> Iterator[tuple[int, int, psutil.Process]]:
    """A stand-in, and a Quartet in front of it: their ports, and Quartet's process."""
    engine, ours = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        process("-m", "bench.gateway", "--stand-in", str(engine), str(pause)),
    ):
        wait_for(f"http://127.0.0.1:{engine}/v1/models")
        flags = ["--port", str(ours), "--data-dir", folder, "--engine-url", f"http://127.0.0.1:{engine}/v1"]
        with process("app.py", *flags) as quartet:
            wait_for(f"http://127.0.0.1:{ours}/api/status", '"ready"')
            yield engine, ours, quartet


def compare(title: str, pause: float, streams: int, answers: int, rounds: int, goal: str) -> float:
    """Print and give the ratio of the medians of both ways, or for one stream what Quartet adds, in ms."""
    with gateway(pause) as (engine, ours, quartet):
        results: dict[int, list[Measured]] = {engine: [], ours: []}
        seconds = 0.0
        for number in range(rounds * 2):
            port = (engine, ours)[number % 2]
            before = sum(quartet.cpu_times()[:2])
            results[port].append(run_load(port, streams, answers))
            seconds += sum(quartet.cpu_times()[:2]) - before
    speed = [statistics.median(CHUNKS * one.answers_per_second for one in results[port]) for port in (engine, ours)]
    first = [1000 * statistics.median(one.first for one in results[port]) for port in (engine, ours)]
    cost = seconds / (rounds * (answers + 1) * streams * CHUNKS)
    print(f"{title}, {streams} at once (goal: {goal})")
    print(f"  chunks/s: direct {speed[0]:,.0f}, through Quartet {speed[1]:,.0f}: {speed[1] / speed[0]:.2f} of direct")
    print(f"  first chunk: direct {first[0]:.1f} ms, through Quartet {first[1]:.1f} ms: {first[1] - first[0]:+.1f} ms")
    print(f"  Quartet's processor time: {1e6 * cost:.1f} us a chunk", flush=True)
    return first[1] - first[0] if streams == 1 else speed[1] / speed[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--stand-in", nargs=2, metavar=("PORT", "PAUSE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stand_in:
        stand_in(int(given.stand_in[0]), float(given.stand_in[1]))
    else:
        compare("As fast as it can", 0.0, 32, 20, given.rounds, "0.6 of direct")
        compare("As fast as it can", 0.0, 1, 100, given.rounds, "5 ms more at most")
        compare("A chunk in 10 ms", 0.01, 64, 4, given.rounds, "0.97 of direct")


if __name__ == "__main__":
    main()
