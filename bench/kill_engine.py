"""`kill -9` of the engine in the middle of 16 streams: when each client is told, and when the engine is back.

python -m bench.kill_engine [--clients 16]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests import checkpoints
from tests.running_server import RunningServer, running_server


@dataclass
class Outcome:
    """Seconds after the kill: `told` of each client that got an error event, `noticed` and `back` by /health."""

    told: list[float] = field(default_factory=list)
    silent: int = 0  # clients whose stream ended in another way
    noticed: float = 0.0
    back: float = 0.0


def run(server: RunningServer, clients: int) -> Outcome:
    """The server must have a model that never ends its answers in service."""
    outcome, begun, killed = Outcome(), threading.Semaphore(0), [0.0]

    def listen() -> None:
        body = {"prompt": "go on", "use_stream_chat": True, "max_new_tokens": 8000}
        last, pieces = b"", 0
        with server.client(timeout=120) as client, client.stream("POST", "/", json=body) as answer:
            for piece in answer.iter_raw():
                last, pieces = (last + piece)[-200_000:], pieces + 1
                if pieces == 2:
                    begun.release()
        events = [part for part in last.split(b"\0") if part]
        if events and "error" in json.loads(events[-1]):
            outcome.told.append(time.monotonic() - killed[0])
        else:
            outcome.silent += 1

    threads = [threading.Thread(target=listen) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=120), "a stream did not begin"
    killed[0] = time.monotonic()
    server.engine().kill()
    outcome.noticed = _until(server, killed[0], ready=False)
    outcome.back = _until(server, killed[0], ready=True)
    for thread in threads:
        thread.join(60)
    answer = server.post("/", json={"prompt": "go on", "max_new_tokens": 3})
    assert answer.status_code == 200, answer.text
    return outcome


def _until(server: RunningServer, began: float, ready: bool) -> float:
    while server.get("/health").json()["ready"] is not ready:
        assert time.monotonic() - began < 180, f"/health did not say ready={ready}"
        time.sleep(0.02)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=16)
    clients = parser.parse_args().clients
    with (
        tempfile.TemporaryDirectory(prefix="quartet-kill-") as folder,
        running_server(Path(folder), "--model-path", str(checkpoints.never_ends())) as server,
    ):
        server.wait_for_model()
        outcome = run(server, clients)
    told = max(outcome.told, default=0.0)
    print(f"{len(outcome.told)} of {clients} streams ended with an error event, the last one after {told:.2f} s")
    print(f"/health told after {outcome.noticed:.2f} s; the engine was back by itself after {outcome.back:.1f} s")


if __name__ == "__main__":
    main()
