"""An engine that is a local server in a child process: a free port, a random key, readiness, and why it failed.

Shared by vLLM and transformers. Knows the OpenAI protocol only as `/health`; knows no model.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from backends.engines.base import Report
from backends.errors import EngineFailed
from backends.openai_client import new_client
from backends.process import EngineProcess, free_loopback_port
from backends.types import Progress

_PORT_TRIES = 3
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Launch:
    """How to start the server: its command line and what it needs in its environment (secrets go here)."""

    command: Sequence[str]
    env: Mapping[str, str]


class LocalServer:
    """One server process on 127.0.0.1. `launch(port, key)` says how to start it; `progress(lines)` reads its log.

    `timeout` is how many seconds it may take to become ready.
    """

    def __init__(
        self,
        launch: Callable[[int, str], Launch],
        log_file: Path,
        progress: Callable[[Sequence[str]], Progress | None],
        timeout: float = 1800.0,
    ) -> None:
        self._launch, self._log_file, self._progress, self._timeout = launch, log_file, progress, timeout
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
                taken = (
                    isinstance(error, EngineFailed) and "address already in use" in "\n".join(self.log_tail()).lower()
                )
                if not taken or attempt == _PORT_TRIES - 1:
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
                        raise EngineFailed("The engine did not start: " + why_it_ended(self.log_tail(), ended.result()))
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
        if current := stage or self._progress(self.log_tail(200)):
            report(current)
        return False

    async def ended(self) -> str:
        """The reason, once the process is over."""
        assert self._process is not None  # noqa: S101 - only a started server is watched
        code = await self._process.wait()
        return why_it_ended(self.log_tail(), code)

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


# What a log says -> what a person is told, first match wins.
_REASONS = (
    (
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError|No available memory for the cache blocks",
        "there was not enough memory for the model; choose a smaller one, or give it less context with --engine-args "
        "(--max-model-len).",
    ),
    (
        r"larger than the maximum number of tokens that can be stored in KV cache",
        "the memory left beside the weights is too small for the model's context; "
        "set a smaller one with --engine-args --max-model-len.",
    ),
    (r"address already in use", "its port was taken by another program; try again."),
    (
        r"are not supported for now|does not recognize this architecture|Unrecognized model|no vLLM implementation",
        "the engine does not support this model's architecture; try --backend transformers.",
    ),
    (r"unrecognized arguments?: (?P<what>.{1,100})", "it does not know these --engine-args: {what}."),
    (r"No module named '?(?P<what>[\w.]+)", "the Python package {what} is missing in its environment."),
    (
        r"No such file or directory: '?(?P<what>[^'\n]{1,200})|FileNotFoundError: (?P<what2>[^\n]{1,200})",
        "a file is missing: {what}.",
    ),
    (
        r"SafetensorError|Error while deserializing|PytorchStreamReader failed",
        "a weight file is damaged; fetch it again.",
    ),
    (r"No space left on device", "the disk is full."),
    (r"CUDA driver|no CUDA-capable device|NVIDIA driver", "the graphics driver could not be used."),
)


def why_it_ended(log: Sequence[str], code: int) -> str:
    """One sentence: what the log says, or else its last line, or how the process ended."""
    text = "\n".join(log)
    for pattern, sentence in _REASONS:
        if match := re.search(pattern, text, re.IGNORECASE):
            what = next((group for group in match.groupdict().values() if group), "")
            return sentence.format(what=what.strip())
    if code == -9:
        return "its process was killed, most often because the machine ran out of memory."
    last = _last_telling(log)
    ending = f"a signal ({-code})" if code < 0 else f"exit code {code}"
    return f"its process ended with {ending}" + (f"; its last words were: {last}" if last else " and said nothing.")


def _last_telling(log: Sequence[str]) -> str:
    """The last line that names an error, else the last line; without time stamp, class name or traceback arrows."""
    named = [line for line in log if re.search(r"\b\w*(?:Error|Exception)\b: ", line)]
    line = (named or list(log) or [""])[-1]
    line = re.sub(r"^.*?\b(?:\w+\.)*\w*(?:Error|Exception)\b: ", "", line)
    return line[:300]
