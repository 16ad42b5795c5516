"""Search while others upload: 32 searches and 8 uploads at once against the real program, next to an idle one.

    python -m bench.concurrency [--seconds 20] [--database-url URL | --postgres]

Prints p95 in milliseconds of a search alone, of 32 at once, and of 32 at once while 8 upload; the ratios, the errors.
The goal is no error, and p95 at most 5 times that of a search on the idle server. That is the second ratio; it holds
only where there are cores for 32 searches. Each of the 32 asks again as soon as it is answered, so on 2 cores they wait
for each other, uploads or not: this wait is the p95 of 32 at once, and the first ratio is what the uploads add to it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.postgres import running_postgres
from tests.running_server import RunningServer, running_server

SEARCHERS, UPLOADERS, FILES_BEFORE = 32, 8, 10
BASE = "/api/knowledge-bases/bench"


def document(seed: int) -> bytes:
    """A text of about 400 words, different for each seed."""
    chance = random.Random(seed)
    words = [f"word{n}" for n in range(3_000)]
    paragraphs = [" ".join(chance.choices(words, k=50)).capitalize() + "." for _ in range(8)]
    return "\n\n".join(paragraphs).encode()


def repeat(times: int, seconds: float, work: Callable[[httpx.Client, int], None], server: RunningServer) -> list[str]:
    """`times` threads that each do `work(client, number)` again and again; the errors they met."""
    errors: list[str] = []
    end = time.monotonic() + seconds

    def loop(thread: int) -> None:
        with server.client(timeout=300) as client:
            number = thread
            while time.monotonic() < end:
                try:
                    work(client, number)
                except (httpx.HTTPError, AssertionError) as error:
                    errors.append(f"{type(error).__name__}: {error}")
                number += times

    with ThreadPoolExecutor(times) as threads:
        for done in [threads.submit(loop, thread) for thread in range(times)]:
            done.result()
    return errors


class Searches:
    """Searches with a different question each time; `p95` of what they took, in milliseconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, client: httpx.Client, number: int) -> None:
        began = time.monotonic()
        answer = client.post(f"{BASE}/search", json={"query": f"What is word{number % 3_000} about?"})
        self.seconds.append(time.monotonic() - began)
        assert answer.status_code == 200, answer.text
        assert answer.json()["hits"], "nothing was found"

    @property
    def p95(self) -> float:
        return 1000 * statistics.quantiles(self.seconds, n=20)[-1]


def upload(client: httpx.Client, number: int) -> None:
    """Adds a document and waits until it is searchable."""
    files = {"files": (f"upload-{number}.txt", document(10_000 + number))}
    (record,) = client.post(f"{BASE}/files", params={"wait": "true"}, files=files).raise_for_status().json()
    assert record["state"] == "searchable", record["error"]


def measure(server: RunningServer, seconds: float) -> bool:
    """Prints the figures; returns whether there was no error."""
    server.post("/api/knowledge-bases", json={"name": "bench"}).raise_for_status()
    with server.client(timeout=900) as client:
        before = [("files", (f"{n}.txt", document(n))) for n in range(FILES_BEFORE)]
        client.post(f"{BASE}/files", params={"wait": "true"}, files=before).raise_for_status()
        Searches()(client, 0)
    alone, crowd, busy = Searches(), Searches(), Searches()
    errors = repeat(1, seconds, alone, server) + repeat(SEARCHERS, seconds, crowd, server)
    uploaded: list[str] = []
    uploads = threading.Thread(target=lambda: uploaded.extend(repeat(UPLOADERS, seconds, upload, server)))
    uploads.start()
    errors += repeat(SEARCHERS, seconds, busy, server)
    uploads.join()
    errors += uploaded
    names = [file["name"] for file in server.get(f"{BASE}/files").json() if file["name"].startswith("upload-")]
    print(f"p95 of a search: alone {alone.p95:.0f} ms, {SEARCHERS} at once {crowd.p95:.0f} ms,", end=" ")
    print(f"with {UPLOADERS} uploads too {busy.p95:.0f} ms ({len(busy.seconds)} searches, {len(names)} uploads)")
    print(f"ratio to {SEARCHERS} at once without uploads {busy.p95 / crowd.p95:.2f},", end=" ")
    print(f"to one alone {busy.p95 / alone.p95:.2f}; {len(errors)} errors")
    for error in sorted(set(errors))[:10]:
        print(error)
    return not errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--postgres", action="store_true", help="the shared store, on a PostgreSQL of its own")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = given.database_url
        if given.postgres:
            url = stack.enter_context(running_postgres()).database()
        env = {"QUARTET_DATABASE_URL": url} if url else {}
        return 0 if measure(stack.enter_context(running_server(folder, env=env)), given.seconds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
