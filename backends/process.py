"""A supervised child process: start, wait, stop, log tail; nothing of it outlives the app. Knows no models, no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.errors import EngineFailed

_WATCHDOG = Path(__file__).with_name("watchdog.py")
_LOG_BYTES = 2 * 1024 * 1024
_TAIL_BYTES = 64 * 1024


def free_loopback_port() -> int:
    """A TCP port of 127.0.0.1 that is free now. Another process may take it first: try again with a new one then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EngineProcess:
    """A command in its own process group, under a watchdog process that ends the whole group when it is told to or
    when the app is gone, `kill -9` included. `env` comes on top of the inherited environment (less the app's own
    QUARTET_ settings) and is where secrets go: they never show in a command line.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log_file: Path) -> None:
        self.pid: int | None = None
        self._order = {"command": list(command), "env": dict(env), "log": str(log_file), "log_bytes": _LOG_BYTES}
        self._log_file = log_file
        self._watchdog: asyncio.subprocess.Process | None = None
        self._over: asyncio.Task[int] | None = None

    async def start(self) -> None:
        """Start the command. Raises EngineFailed when the program is not there or cannot be run."""
        # -I -S: the watchdog needs nothing installed, and so it is there in milliseconds.
        self._watchdog = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_WATCHDOG),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._watchdog.stdin is not None  # noqa: S101 - made with pipes
        assert self._watchdog.stdout is not None  # noqa: S101
        self._watchdog.stdin.write(json.dumps(self._order).encode() + b"\n")
        try:
            await self._watchdog.stdin.drain()
            word, _, rest = (await self._watchdog.stdout.readline()).decode().strip().partition(" ")
        except ConnectionError:
            word, rest = "", ""
        except asyncio.CancelledError:
            self._watchdog.stdin.close()
            await self._watchdog.wait()
            raise
        if word != "pid":
            self._watchdog.stdin.close()
            await self._watchdog.wait()
            program = self._order["command"][0]  # type: ignore[index]
            raise EngineFailed(f"The program {program} could not be started: {rest or 'its supervisor ended'}.")
        self.pid = int(rest)
        self._over = asyncio.create_task(self._until_over(self._watchdog, self.pid))

    async def _until_over(self, watchdog: asyncio.subprocess.Process, pid: int) -> int:
        assert watchdog.stdout is not None  # noqa: S101 - made with a pipe
        line = (await watchdog.stdout.readline()).decode().split()
        await watchdog.wait()
        if len(line) == 2 and line[0] == "exit":
            return int(line[1])
        # The watchdog itself was killed; its child has a parent-death signal, the rest of the group is ended here.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return -signal.SIGKILL

    async def wait(self) -> int:
        """The exit code, negative for a signal, once the process and everything it started are gone."""
        if self._over is None:
            raise EngineFailed("The engine process was not started.")
        return await asyncio.shield(self._over)

    @property
    def running(self) -> bool:
        return self._over is not None and not self._over.done()

    async def stop(self, grace: float = 5.0) -> None:
        """SIGTERM to the group, SIGKILL after `grace` seconds; returns when all of it is gone. Twice is fine."""
        if self._over is None or self._watchdog is None or self._watchdog.stdin is None:
            return
        if not self._over.done() and not self._watchdog.stdin.is_closing():
            with contextlib.suppress(ConnectionError):
                self._watchdog.stdin.write(f"{grace}\n".encode())
                await self._watchdog.stdin.drain()
            self._watchdog.stdin.close()
        try:
            # The watchdog needs up to 5 s more for processes that do not die at once (a driver call under way).
            await asyncio.wait_for(asyncio.shield(self._over), grace + 10.0)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._watchdog.kill()
            await self._over

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines that the process wrote, oldest first; a progress bar counts as its last state."""
        text = b""
        for path in (self._log_file.with_name(self._log_file.name + ".1"), self._log_file):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                text += file.read()
        decoded = (line.strip("\r").rsplit("\r", 1)[-1].strip() for line in text.decode(errors="replace").split("\n"))
        return [line for line in decoded if line][-lines:]
