"""Servers that somebody else runs, one or several as one: the least busy is asked, a dead one left out and taken back.

Knows neither how a model is found on a server nor how one is spoken to: remote_server.py and openai_client.py do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from backends.engines.base import Report
from backends.engines.remote_server import Served, api_root, served_model
from backends.errors import Busy, EngineFailed
from backends.openai_client import OpenAIChatModel
from backends.types import Delta, Message, Patience, Progress, SamplingParams

_CHECK_SECONDS = 5.0
_LOG_LINES = 40


def server_roots(urls: str) -> list[str]:
    """`http://a:8000, http://b:8000/v1` as addresses of APIs, each once, in their order. Raises InvalidRequest."""
    return list(dict.fromkeys(api_root(url) for url in urls.split(",") if url.strip()))


async def served_by_any(roots: Sequence[str], key: str, wanted: str = "") -> Served:
    """What the first server that has `wanted` (or any model) serves. Raises the first one's EngineFailed."""
    answers = await asyncio.gather(*(served_model(root, key, wanted) for root in roots), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Served):
            return answer
    raise next((answer for answer in answers if isinstance(answer, BaseException)), _none_there())


@dataclass
class _Member:
    """One server; `model` is there from the first time that it answered, `failure` says how its last check went."""

    root: str
    model: OpenAIChatModel | None = None
    up: bool = False
    failure: str = ""
    in_flight: int = 0
    failed_at: float = 0.0  # the clock's seconds of its last failure
    doubted: asyncio.Event = field(default_factory=asyncio.Event)  # set: look at it now

    @property
    def place(self) -> str:
        return urlsplit(self.root).netloc


class PooledModel:
    """A ChatModel over the servers; an answer that has begun stays with its server."""

    def __init__(self, members: Sequence[_Member], context_length: int | None) -> None:
        self._members, self.context_length = members, context_length

    async def close(self) -> None:
        """Close the connections to all of them."""
        for member in self._members:
            if member.model is not None:
                await member.model.close()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """As ChatModel. What fails before the first token is tried on the next server; raises the last one's error."""
        failure: EngineFailed | Busy = _none_there()
        tried: set[str] = set()
        while (member := self._next(tried)) is not None and member.model is not None:
            tried.add(member.root)
            begun = False
            member.in_flight += 1
            try:
                async with aclosing(member.model.stream(messages, params)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                return
            except (EngineFailed, Busy) as error:
                _note(member, error)
                if begun:
                    raise
                failure = error
            finally:
                member.in_flight -= 1
        raise failure

    def _next(self, tried: set[str]) -> _Member | None:
        """Those that are up first, of them the least busy, of those the one whose last failure is longest ago. One that
        is down is the last resort: it may be back already."""
        left = [member for member in self._members if member.model is not None and member.root not in tried]
        return min(left, key=lambda member: (not member.up, member.in_flight, member.failed_at), default=None)


def _note(member: _Member, error: EngineFailed | Busy) -> None:
    """A server that is only full is well. One that failed waits for its check, which is at once: the request may have
    been at fault."""
    member.failed_at = time.monotonic()
    if isinstance(error, EngineFailed):
        member.up = False
        member.doubted.set()


class RemoteEngine:
    """The servers at `roots`, all with `model`. One that answers is enough to start."""

    backend = "openai"

    def __init__(
        self,
        roots: Sequence[str],
        key: str,
        model: str,
        patience: Patience | None = None,
        check_seconds: float = _CHECK_SECONDS,
    ) -> None:
        self._key, self._name, self._patience, self._every = key, model, patience, check_seconds
        self._members = [_Member(root) for root in roots]
        self._checks: list[asyncio.Task[None]] = []
        self._log: deque[str] = deque(maxlen=_LOG_LINES)

    async def start(self, report: Report) -> PooledModel:
        """Raises EngineFailed when no server has the model."""
        report(Progress("asking the servers for their models"))
        failures = await asyncio.gather(*(self._check(member) for member in self._members))
        if not any(member.up for member in self._members):
            raise next((failure for failure in failures if failure is not None), _none_there())
        self._checks = [asyncio.create_task(self._watch(member)) for member in self._members]
        lengths = (member.model.context_length for member in self._members if member.model is not None)
        # A prompt must fit wherever it goes.
        return PooledModel(self._members, min(filter(None, lengths), default=None))

    async def _watch(self, member: _Member) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which can swallow a cancellation that comes together with the event.
                async with asyncio.timeout(self._every):
                    await member.doubted.wait()
                # Doubted again and again, it is still asked no more than a few times a second.
                await asyncio.sleep(min(0.2, self._every))
            member.doubted.clear()
            await self._check(member)

    async def _check(self, member: _Member) -> EngineFailed | None:
        before = member.up
        try:
            served = await served_model(member.root, self._key, self._name)
        except EngineFailed as failure:
            if before or member.model is None:
                self._say(f"{member.place} is left out: {failure.message}")
            member.up, member.failed_at, member.failure = False, time.monotonic(), failure.message
            return failure
        if member.model is None:
            length = served.context_length
            member.model = OpenAIChatModel(
                member.root, served.name, self._key, context_length=length, patience=self._patience
            )
        if not before:
            self._say(f"{member.place} takes part.")
        member.up, member.failure = True, ""
        return None

    def _say(self, line: str) -> None:
        if not self._log or not self._log[-1].endswith(line):
            self._log.append(f"{time.strftime('%H:%M:%S')} {line}")

    async def stop(self) -> None:
        for check in self._checks:
            check.cancel()
        if self._checks:
            await asyncio.wait(self._checks)

    async def ended(self) -> str:
        """Never: a request that finds all servers gone fails by itself, and the next one tries again."""
        await asyncio.Event().wait()
        return ""

    @property
    def trouble(self) -> str:
        """As Engine: why none answers, by the last check of each."""
        failures = [member.failure for member in self._members]
        return "" if "" in failures else failures[0] if len(failures) == 1 else _none_there().message

    def log_tail(self) -> list[str]:
        """What happened to the servers, then how each of them is."""
        states = (
            f"{member.place}: {'answers' if member.up else 'does not answer'}, {member.in_flight} in flight"
            for member in self._members
        )
        return [*self._log, *states]


def _none_there() -> EngineFailed:
    return EngineFailed("None of the model servers answers; check --engine-url and that they run.")
