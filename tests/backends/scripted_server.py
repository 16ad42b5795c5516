"""A stand-in for engines, to test what is around them: an OpenAI chat server of the standard library, run as a child.

`python scripted_server.py PORT NAME [how]`; how: "no-memory" (says so and ends) or "slow-start". The last message
scripts the answer: "count N" streams N words, 20 ms apart; "die" ends the process in mid-stream; else it is echoed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    name = ""
    key = os.environ.get("SCRIPTED_KEY", "")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({})
        else:
            self.answer({"data": [{"id": self.name, "max_model_len": 4096}]})

    def answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        if self.headers.get("Authorization", "") != f"Bearer {self.key}":
            self.send_error(401)
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][-1]["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = [f"{i} " for i in range(int(asked.split()[1]))] if asked.startswith("count ") else [asked]
        for word in (f"{self.name}: ", *words):
            self.event({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
            if asked == "die":
                os._exit(3)
            time.sleep(0.02 if len(words) > 1 else 0)
        self.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(words) + 1}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, event: object) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


def main() -> None:
    port, Handler.name, how = int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
    print("loading", Handler.name, flush=True)
    if how == "no-memory":
        sys.exit("RuntimeError: CUDA out of memory. Tried to allocate 20.00 GiB")
    time.sleep(1.5 if how == "slow-start" else 0)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
