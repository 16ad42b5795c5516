"""The parent of every engine: starts it, keeps its log small, ends it when the app is gone. Standard library only.

Run as a script. Standard input: one line of JSON {"command", "env", "log", "log_bytes"}, then perhaps a number (seconds
of grace: "stop now"); the end of the input means that the app is gone. Standard output: "pid N", or "error SENTENCE"
when the command cannot be started, and at the end "exit CODE" (negative: a signal).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class BoundedLog:
    """A log file that moves aside as `<name>.1` when it is `limit` bytes long; `<name>.previous` is the run before."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit, self._size = path, limit, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".1").unlink(missing_ok=True)
        self._file = self._fresh(".previous")

    def _fresh(self, suffix: str) -> BinaryIO:
        with contextlib.suppress(OSError):
            self._path.replace(self._path.with_name(self._path.name + suffix))
        self._size = 0
        return open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        # A full disk must not stop the engine: its log is then cut.
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit:
                self._file.close()
                self._file = self._fresh(".1")
            self._size += self._file.write(data)


def _linux(option: int, value: int) -> None:
    """prctl where there is one; elsewhere the pipe and the process group do the work alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _orphans() -> list[int]:
    """Children of this process: what the engine started and left, even in another group or session."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_everything(group: int) -> None:
    """SIGKILL for what is left of the engine's group and of everything it left behind; returns when all are gone."""
    _signal_group(group, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while (left := _orphans()) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _exited(child: subprocess.Popen[bytes]) -> bool:
    """Whether the child is over, leaving it a zombie, so that its group number cannot go to anybody else yet."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def supervise(child: subprocess.Popen[bytes], log: BoundedLog, wake: int) -> int:
    """Pump the log until the child is over or the app wants it ended; returns the exit code."""
    assert child.stdout is not None  # noqa: S101 - it was made with a pipe
    output = child.stdout.fileno()
    sources = [0, output, wake]
    app = os.getppid()
    give_up_at: float | None = None
    while not _exited(child):
        timeout = 1.0 if give_up_at is None else max(0.0, min(1.0, give_up_at - time.monotonic()))
        ready = select.select(sources, [], [], timeout)[0]
        if wake in ready:
            os.read(wake, 512)
        if output in ready and not _pump(output, log):
            sources.remove(output)
        # A new parent means that the app is gone, even when a process forked from it still holds our pipe open.
        if 0 in sources and (0 in ready or os.getppid() != app):
            order = os.read(0, 64).strip() if 0 in ready else b""
            give_up_at = time.monotonic() + (float(order) if order else GRACE_SECONDS)
            sources.remove(0)
            _signal_group(child.pid, signal.SIGTERM)
        if give_up_at is not None and time.monotonic() >= give_up_at:
            _signal_group(child.pid, signal.SIGKILL)
            give_up_at = time.monotonic() + 1.0
    _signal_group(child.pid, signal.SIGKILL)
    code = child.wait()
    _end_everything(child.pid)
    while select.select([output], [], [], 0)[0] and _pump(output, log):
        pass
    return code


def _pump(output: int, log: BoundedLog) -> bool:
    data = os.read(output, 65536)
    log.write(data)
    return bool(data)


def main() -> int:
    # Unbuffered: what follows the first line stays in the pipe for select().
    with open(0, "rb", buffering=0, closefd=False) as orders:
        order = json.loads(orders.readline())
    log = BoundedLog(Path(order["log"]), order["log_bytes"])
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Asked to end by somebody else: read it as if the app had gone.
    signal.signal(signal.SIGTERM, lambda *_: os.dup2(os.open(os.devnull, os.O_RDONLY), 0))
    _linux(_PR_SET_CHILD_SUBREAPER, 1)
    # The app's own settings and token are no business of an engine.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUARTET_")}
    try:
        child = subprocess.Popen(
            order["command"],
            env=inherited | order["env"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _linux(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except (OSError, ValueError) as error:
        print("error", getattr(error, "strerror", None) or error, flush=True)
        return 1
    print("pid", child.pid, flush=True)
    code = supervise(child, log, wake)
    with contextlib.suppress(BrokenPipeError):
        print("exit", code, flush=True)
    return 0


if __name__ == "__main__":
    # os._exit: at the end nothing is left to flush, and a broken pipe to a dead app is no error.
    os._exit(main())
