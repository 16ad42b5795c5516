"""An engine that is a local server in a child process: a free port, a random key, readiness, and why it failed.

Shared by vLLM and transformers. Knows the OpenAI protocol only as `/health`; knows no model.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from backends.engines.base import Report
from backends.engines.failures import why_it_ended
from backends.errors import EngineFailed
from backends.openai_client import new_client
from backends.process import EngineProcess, free_loopback_port
from backends.types import Progress

_PORT_TRIES = 3
_POLL_SECONDS = 0.2
# An engine of several processes says why it failed some hundred lines before it ends.
_TELLING_LINES = 400


@dataclass(frozen=True)
class Launch:
    """How to start the server: its command line and what it needs in its environment (secrets go here)."""

    command: Sequence[str]
    env: Mapping[str, str]


class LocalServer:
    """One server process on 127.0.0.1. `launch(port, key)` says how to start it; `progress(lines)` reads its log.

    `timeout` is how many seconds it may take to become ready; `hang` for how many its health call may go unanswered
    after that before it is ended.
    """

    def __init__(
        self,
        launch: Callable[[int, str], Launch],
        log_file: Path,
        progress: Callable[[Sequence[str]], Progress | None],
        timeout: float = 1800.0,
        hang: float = 120.0,
    ) -> None:
        self._launch, self._log_file, self._progress, self._timeout = launch, log_file, progress, timeout
        self._hang = hang
        self._process: EngineProcess | None = None
        self.base_url = ""
        self.key = ""

    async def start(self, report: Report) -> None:
        """Ready when this returns. Raises EngineFailed with the reason in plain words."""
        for attempt in range(_PORT_TRIES):
            try:
                await self._start_once(report)
            except BaseException as error:
                await self.stop()
                last_try = attempt == _PORT_TRIES - 1
                if last_try or not isinstance(error, EngineFailed) or not await asyncio.to_thread(self._port_taken):
                    raise
            else:
                return

    async def _start_once(self, report: Report) -> None:
        port, self.key = free_loopback_port(), secrets.token_urlsafe(32)
        self.base_url = f"http://127.0.0.1:{port}/v1"
        launch = self._launch(port, self.key)
        self._process = EngineProcess(launch.command, launch.env, self._log_file)
        await self._process.start()
        ended = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(self._timeout), new_client(self.base_url, self.key) as client:
                while not await self._ready(client, f"http://127.0.0.1:{port}/health", report):
                    if (await asyncio.wait([ended], timeout=_POLL_SECONDS))[0]:
                        raise EngineFailed("The engine did not start: " + await self._why(ended.result()))
        except TimeoutError as error:
            raise EngineFailed(f"The engine was not ready after {self._timeout:.0f} seconds; see its log.") from error
        finally:
            ended.cancel()

    async def _ready(self, client: httpx.AsyncClient, url: str, report: Report) -> bool:
        """Asks once. A server that reports its stage in /health is believed; of others the log is read."""
        stage: Progress | None = None
        try:
            response = await client.get(url, timeout=2.0)
            if response.status_code == httpx.codes.OK:
                return True
            stage = _stage(response)
        except httpx.HTTPError:
            pass
        if current := stage or await asyncio.to_thread(self._progress_logged):
            report(current)
        return False

    # Reading the log and searching it takes up to a tenth of a second: in a thread, never on the event loop.

    def _progress_logged(self) -> Progress | None:
        return self._progress(self.log_tail(200))

    def _port_taken(self) -> bool:
        return any("address already in use" in line.lower() for line in self.log_tail(_TELLING_LINES))

    async def _why(self, code: int) -> str:
        return await asyncio.to_thread(lambda: why_it_ended(self.log_tail(_TELLING_LINES), code))

    async def ended(self) -> str:
        """The reason, once the process is over; one that hangs is ended."""
        assert self._process is not None  # noqa: S101 - only a started server is watched
        process = self._process
        over, hanging = asyncio.create_task(process.wait()), asyncio.create_task(self._hanging())
        try:
            await asyncio.wait({over, hanging}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                await process.stop()
                return f"it hung: its health call was not answered for {self._hang:.0f} seconds."
            return await self._why(over.result())
        finally:
            over.cancel()
            hanging.cancel()
            await asyncio.wait({over, hanging})

    async def _hanging(self) -> None:
        """Returns when no health call was answered for the set time. Any answer will do: what it says is not asked."""
        url = self.base_url.removesuffix("/v1") + "/health"
        clock = asyncio.get_running_loop().time
        async with new_client(self.base_url, self.key) as client:
            answered = clock()
            while clock() - answered < self._hang:
                try:
                    async with asyncio.timeout(self._hang):
                        await client.get(url)
                    answered = clock()
                except (httpx.HTTPError, TimeoutError):
                    pass
                await asyncio.sleep(self._hang / 12)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def log_tail(self, lines: int = 40) -> list[str]:
        return self._process.log_tail(lines) if self._process is not None else []


def _stage(response: httpx.Response) -> Progress | None:
    """{"stage", "done", "total"} of a server that is still loading."""
    try:
        body = response.json()
        return Progress(str(body["stage"]), int(body.get("done") or 0), int(body.get("total") or 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
