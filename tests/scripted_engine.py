"""A stand-in for a model server of somebody else: speaks the OpenAI chat protocol, follows a script, and keeps count.

It runs in a thread of the test, so that a test can look at what it was asked and how many tokens it still made.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "scripted-model"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that may wait; the usual five refuse a crowd


class ScriptedEngine:
    """Answers every question with "word1 word2 ..." up to `words`, or to the question's own max_tokens; with the pieces
    of `script` instead where there are some."""

    def __init__(self, words: int = 5, seconds_per_word: float = 0.0, breaks_after: int | None = None) -> None:
        self._first = (words, seconds_per_word, breaks_after)
        self.reset()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.made = 0  # words, of all answers
        self.open = 0  # answers being made
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    def reset(self) -> None:
        """Answer again as at first."""
        self.words, self.seconds_per_word, self.breaks_after = self._first
        self.script: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def text(self, words: int) -> str:
        """What it answers when it gets to say this many words."""
        return "".join(f"word{number} " for number in range(1, words + 1))

    def wait_until_idle(self, limit: float) -> float:
        """Seconds until no answer is being made any more; fails after `limit`."""
        began = time.monotonic()
        while self.open:
            assert time.monotonic() - began < limit, f"{self.open} answers were still being made after {limit} s"
            time.sleep(0.005)
        return time.monotonic() - began

    def pieces(self, limit: int) -> Iterator[str]:
        with self._lock:
            self.open += 1
        try:
            spoken = self.script or tuple(f"word{number} " for number in range(1, min(self.words, limit) + 1))
            for number, piece in enumerate(spoken, 1):
                if self.breaks_after is not None and number > self.breaks_after:
                    raise ConnectionAbortedError
                time.sleep(self.seconds_per_word)
                with self._lock:
                    self.made += 1
                yield piece
        finally:
            with self._lock:
                self.open -= 1


@contextmanager
def scripted_engine(
    words: int = 5, seconds_per_word: float = 0.0, breaks_after: int | None = None
) -> Iterator[ScriptedEngine]:
    """A running engine; it ends with the block."""
    engine = ScriptedEngine(words, seconds_per_word, breaks_after)
    thread = threading.Thread(target=engine._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine._server.shutdown()
        engine._server.server_close()
        thread.join()


def _handler(engine: ScriptedEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._json({"object": "list", "data": [{"id": NAME, "object": "model", "max_model_len": 4096}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.requests.append(body)
            engine.keys.append(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            limit = body.get("max_tokens") or engine.words
            try:
                for piece in engine.pieces(limit):
                    self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
                reason = "length" if limit < engine.words else "stop"
                self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
                usage = {"prompt_tokens": 7, "completion_tokens": min(limit, engine.words)}
                self._event({"choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                pass  # the client is gone, or the script says to break
            self.close_connection = True

        def _event(self, value: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
            self.wfile.flush()

        def _json(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
