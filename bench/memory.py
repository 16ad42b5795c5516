"""The peak memory of the app, of the embedding worker and of the readers: one upload, and another ten times as large.

    python -m bench.memory [--files 10] [--kilobytes 100] [--one-file] [--embedding-model FOLDER]

Starts the real program twice. The upload is of more files, or with --one-file of one larger file. The embedding model
is a tiny one made here, unless a folder is given: how much of a text it gets at once does not depend on it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from bench.ingest import text
from tests.rag.tiny_embeddings import tiny_model
from tests.running_server import RunningServer, running_server

KINDS = {"app": "app.py", "embedding worker": "rag.embedding_worker", "reader": "rag.readers"}


class Peaks:
    """The most memory, in MiB, that any process of each kind has had, as the kernel counts it."""

    def __init__(self, server: RunningServer) -> None:
        self.most = dict.fromkeys(KINDS, 0.0)
        self._app = psutil.Process(server.process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._look()
        self._look()

    def _look(self) -> None:
        with suppress(psutil.Error, OSError):
            for process in (self._app, *self._app.children()):
                with suppress(psutil.Error, OSError, StopIteration):
                    command = process.cmdline()
                    kind = next(k for k, part in KINDS.items() if any(word.endswith(part) for word in command))
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                    self.most[kind] = max(self.most[kind], peak / 1024)


def upload(folder: Path, model: Path, sizes: list[int]) -> dict[str, float]:
    """Files of so many paragraphs, all at once; the peaks when all are searchable."""
    folder.mkdir()
    with running_server(folder, "--embedding-model", str(model)) as server, server.client(timeout=1_800) as client:
        client.post("/api/knowledge-bases", json={"name": "kb"}).raise_for_status()
        small = [("files", ("first.txt", text(0, 1)))]
        client.post("/api/knowledge-bases/kb/files?wait=true", files=small).raise_for_status()
        with Peaks(server) as peaks:
            files = [("files", (f"{n}.txt", text(n + 1, paragraphs))) for n, paragraphs in enumerate(sizes)]
            records = client.post("/api/knowledge-bases/kb/files?wait=true", files=files).raise_for_status().json()
        if any(record["state"] != "searchable" for record in records):
            raise SystemExit(f"a file failed: {records}")
        return peaks.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--kilobytes", type=int, default=100, help="of each file")
    parser.add_argument("--one-file", action="store_true", help="all of it in one file")
    parser.add_argument("--embedding-model", type=Path)
    given = parser.parse_args()
    paragraphs = round(given.kilobytes / 0.9)
    with tempfile.TemporaryDirectory() as folder:
        model = given.embedding_model or tiny_model(Path(folder) / "tiny", 32)
        sizes = [[paragraphs] * given.files, [paragraphs] * given.files * 10]
        if given.one_file:
            sizes = [[sum(size)] for size in sizes]
        peaks = [upload(Path(folder) / str(number), model, size) for number, size in enumerate(sizes)]
    for size, most in zip(sizes, peaks, strict=True):
        described = ", ".join(f"{kind} {most[kind]:.0f} MiB" for kind in KINDS)
        print(f"{len(size)} files of {size[0] * 0.9:.0f} kB each: {described}")
    ratios = ", ".join(f"{kind} {peaks[1][kind] / peaks[0][kind]:.2f}" for kind in KINDS)
    print(f"peaks of the upload that is ten times as large, beside the other: {ratios}")


if __name__ == "__main__":
    main()
