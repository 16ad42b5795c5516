"""The pipe between a process that holds a model and the app, seen from that process. Knows no model.

One JSON line in: the set-up first, then requests `{"id", "kind", "texts"}`; one JSON line out: what the model is, then
for each request `{"id", "shape"}` and that many float32, or `{"id", "counts"}`, or `{"id", "error"}`. The process ends
when stdin does, so it cannot outlive the one who asks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Protocol


class Worker(Protocol):
    def run(self) -> None:
        """Answers requests; does not return."""
        ...


class Pipe:
    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self._writing = threading.Lock()

    def listen(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Gives each request to `take`, in a thread of its own. To be said before the model is loaded: the end of stdin
        must end this process in the middle of that, too."""
        threading.Thread(target=self._read, args=(take,), daemon=True).start()

    def introduce(self, said: dict[str, Any]) -> None:
        self._answer(said)

    def counts(self, request: dict[str, Any], counts: list[int]) -> None:
        self._answer({"id": request["id"], "counts": counts})

    def rows(self, request: dict[str, Any], rows: Any) -> None:
        """`rows` is an array of two dimensions."""
        self._answer({"id": request["id"], "shape": rows.shape}, rows.astype("float32").tobytes())

    def refuse(self, request: dict[str, Any], error: Exception) -> None:
        self._answer({"id": request["id"], "error": f"{type(error).__name__}: {error}"})

    def _read(self, take: Callable[[dict[str, Any]], None]) -> None:
        while line := self._requests.readline():
            take(json.loads(line))
        os._exit(0)

    def _answer(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self._writing:
            self._answers.write(json.dumps(head).encode() + b"\n" + body)
            self._answers.flush()


def serve(load: Callable[[dict[str, Any], Pipe], Worker]) -> None:
    """Serves until stdin ends. What `load` raises is told to the one who asked."""
    # Libraries may print; what they print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    setup = json.loads(requests.readline())
    pipe = Pipe(requests, answers)
    try:
        worker = load(setup, pipe)
    except Exception as error:  # whatever it is, the one who asked must hear of it
        pipe.introduce({"error": f"{type(error).__name__}: {error}"})
        raise
    worker.run()
