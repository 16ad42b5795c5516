"""One model in service: its engine is kept alive, its streams are counted. Knows no other model and no switch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from backends.engines.base import Engine, Report
from backends.errors import EngineFailed, ModelError
from backends.specs import Candidate
from backends.types import ChatModel, Delta, Message, SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestartPolicy:
    """A crashed engine is started again after `first_wait`, twice that, ... seconds; after `tries` crashes within
    `window` seconds it is left alone."""

    first_wait: float = 1.0
    tries: int = 5
    window: float = 600.0


class Service:
    """`start` it, `stream` from it, `stop` it; it may be started again after it was stopped."""

    def __init__(self, candidate: Candidate, on_change: Callable[[], None], policy: RestartPolicy) -> None:
        self.candidate = candidate
        self.in_flight = 0
        self.error = ""
        self._on_change, self._policy = on_change, policy
        self._engine: Engine | None = None
        self._model: ChatModel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # set while there is nothing to wait for: ready, given up, or stopped
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        return self._model is not None

    @property
    def restarting(self) -> bool:
        return self._model is None and not self._settled.is_set()

    @property
    def context_length(self) -> int | None:
        """What the running engine says that it takes, else what the checkpoint was made for; in tokens."""
        return getattr(self._model, "context_length", None) or self.candidate.context_length

    async def start(self, report: Report) -> None:
        """Start the engine and keep it alive from then on. Raises EngineFailed or ModelUnusable."""
        self.error = ""
        await self._start_engine(report)
        self._keeper = asyncio.create_task(self._keep(report))

    async def _keep(self, report: Report) -> None:
        try:
            await self._keep_alive(report)
        except Exception:  # noqa: BLE001 - whatever it was, the state must say so
            # Without this the model would seem to be restarting for ever.
            _log.exception("supervising %s failed", self.candidate.name)
            await self._stop_engine()
            self._give_up("an internal error; the server's log has the details.", 1)

    async def _start_engine(self, report: Report) -> None:
        self._engine = self.candidate.engine()
        try:
            self._model = await self._engine.start(report)
        except BaseException:
            await self._stop_engine()
            raise
        self._settled.set()

    async def _keep_alive(self, report: Report) -> None:
        crashes: list[float] = []
        clock = asyncio.get_running_loop().time
        while self._engine is not None:
            reason = await self._engine.ended()
            self._settled.clear()
            await self._stop_engine()
            while self._model is None:
                crashes = [then for then in crashes if clock() - then < self._policy.window] + [clock()]
                if len(crashes) > self._policy.tries:
                    self._give_up(reason, len(crashes))
                    return
                self._changed(f"The engine ended by itself and is being restarted: {reason}")
                await asyncio.sleep(self._policy.first_wait * 2 ** (len(crashes) - 1))
                try:
                    await self._start_engine(report)
                except ModelError as error:
                    reason = error.message
            self._changed("")

    def _give_up(self, reason: str, crashes: int) -> None:
        self._settled.set()
        times = "" if crashes == 1 else f" {crashes} times"
        self._changed(f"The engine failed{times} and is not restarted any more; load the model again. Reason: {reason}")

    def _changed(self, error: str) -> None:
        self.error = error
        self._on_change()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """As ChatModel. Raises EngineFailed at once when the engine is not there."""
        if self._model is None:
            raise EngineFailed(self.error or "The engine is not running.")
        self.in_flight += 1
        self._idle.clear()
        try:
            async with aclosing(self._model.stream(messages, params)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    async def stop(self, drain: float = 0.0) -> None:
        """Wait at most `drain` seconds for the streams in flight, then end the engine."""
        if self.in_flight and drain > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self._stop_engine()
        self._settled.set()

    async def _stop_engine(self) -> None:
        engine, model, self._model = self._engine, self._model, None
        if engine is not None:
            await engine.stop()
        if (close := getattr(model, "close", None)) is not None:
            await close()

    def log_tail(self) -> tuple[str, ...]:
        return tuple(self._engine.log_tail()) if self._engine is not None else ()
