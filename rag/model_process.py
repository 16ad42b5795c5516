"""A child process that holds a model, and the answers that are due from it: JSON to it, JSON and float32 from it.

It starts when it is first asked, comes back when it was lost, and ends with the app. Knows neither model nor questions;
rag.model_pipe is the other end.
"""

from __future__ import annotations

import contextlib
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
from typing import IO, Any

import numpy as np

from backends.errors import EngineFailed, ModelUnusable
from rag.model_name import BUNDLED, bundled_folder, hub_commit

_PATIENCE = 600.0  # seconds for one request, those before it included; what takes longer is not coming back
_PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Role:
    """`module` is what the process runs, `name` what people call it, `remedy` what to do when it cannot be loaded."""

    module: str
    name: str
    remedy: str


class ModelProcess:
    """`source` is a folder, a hub id (the one case that may use the network), or "" for the model that is built in.

    Every method blocks and may be called from any thread. `introduction` and `ask` raise ModelUnusable when the model
    cannot be loaded and EngineFailed when the process was lost while it worked (the next call starts another).
    """

    def __init__(self, role: Role, source: str, log_file: Path | None = None, threads: int | None = None) -> None:
        self._role = role
        self._source = source
        self._log_file = log_file
        self._threads = threads or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def introduction(self) -> dict[str, Any]:
        """What the model said of itself when it was loaded."""
        return self._started().introduction

    def ask(self, kind: str, texts: Sequence[str]) -> Any:
        """A list of counts, or float32 rows: which of them is the model's to decide."""
        return self._started().ask(kind, texts)

    def close(self) -> None:
        """Ends the process; whoever still waits for it gets EngineFailed."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process:
            process.close()

    def _started(self) -> _Process:
        with self._lock:
            if self._closed:
                raise EngineFailed(f"The {self._role.name} is shutting down; ask again when the service is back.")
            if self._process is None or self._process.lost:
                if self._process:
                    self._process.close()
                self._process = _Process(self._role, self._source, self._threads, self._log_file)
            process = self._process
        process.wait_until_loaded()
        return process


class _Process:
    """One process, from its start to its end."""

    def __init__(self, role: Role, model: str, threads: int, log_file: Path | None) -> None:
        self._role = role
        self._label = model or BUNDLED
        self._loaded: Future[dict[str, Any]] = Future()
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
                [sys.executable, "-P", "-m", role.module],
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
        threading.Thread(target=self._read, name=f"{role.module}-answers", daemon=True).start()

    @property
    def introduction(self) -> dict[str, Any]:
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
        try:
            return answer.result(_PATIENCE)
        except TimeoutError:
            with self._lock:
                self.lost = True
            self._process.kill()  # which _read notices, and tells all who wait
            raise self._lost_error() from None

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
                        EngineFailed(f"The {self._role.name} could not read a text ({head['error']}).")
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
                    f"The {self._role.name} {self._label} could not be loaded ({head['error'].splitlines()[0]}). "
                    f"{self._role.remedy}"
                )
            )
        else:
            self._loaded.set_result(head)

    def _pop(self, number: int) -> Future[Any]:
        with self._lock:
            return self._due.pop(number)

    def _lost_error(self) -> EngineFailed:
        return EngineFailed(
            f"The process of the {self._role.name} {self._label} was lost; it is started again. Try again."
        )


def _is_local(model: str) -> bool:
    return not model or Path(model).is_dir()


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
