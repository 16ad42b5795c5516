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
from backends.hardware import gpus
from backends.specs import Candidate, EngineSettings
from backends.types import ChatModel, Delta, Message, SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestartPolicy:
    """A crashed engine is started again after `first_wait`, twice that, ... seconds; after `tries` crashes within
    `window` seconds, or as many starts that failed however long they took, it is left alone."""

    first_wait: float = 1.0
    tries: int = 5
    window: float = 600.0


class Service:
    """`start` it, `stream` from it, `stop` it; it may be started again after it was stopped."""

    def __init__(
        self, candidate: Candidate, on_change: Callable[[], None], policy: RestartPolicy, settings: EngineSettings
    ) -> None:
        self.candidate = candidate
        self.in_flight = 0
        self.held = candidate.memory  # bytes; on a GPU engines take more than a model needs, for their cache
        self._error = ""
        self.asleep = False  # the engine was idle and gave its memory back; the next stream starts it again
        # What runs elsewhere takes no memory here that could be given back.
        self._idle_timeout = settings.idle_timeout if candidate.memory else 0.0
        self._visible_gpus = settings.visible_gpus
        self._dozing: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        self._bed = asyncio.Lock()  # falling asleep and waking up, one after the other
        self._report: Report = lambda progress: None
        self._on_change, self._policy = on_change, policy
        self._engine: Engine | None = None
        self._model: ChatModel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # set while there is nothing to wait for: ready, given up, or stopped
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        return self._model is not None and not self._trouble

    @property
    def error(self) -> str:
        """Why it is not ready, or was not a moment ago, in plain words."""
        return self._error or self._trouble

    @property
    def _trouble(self) -> str:
        return self._engine.trouble if self._engine is not None else ""

    @property
    def restarting(self) -> bool:
        return self._model is None and not self._settled.is_set()

    @property
    def context_length(self) -> int | None:
        """What the running engine says that it takes, else what the checkpoint was made for; in tokens."""
        return getattr(self._model, "context_length", None) or self.candidate.context_length

    async def start(self, report: Report) -> None:
        """Start the engine and keep it alive from then on. Raises EngineFailed or ModelUnusable."""
        self._error, self._report = "", report
        await self._start_engine(report)
        self._keeper = asyncio.create_task(self._keep(report))
        self._doze_when_idle()

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
        before = await self._gpu_memory_free()
        try:
            self._model = await self._engine.start(report)
        except BaseException:
            await self._stop_engine()
            raise
        taken = before - await self._gpu_memory_free() if before else 0
        self.held = max(self.candidate.memory, taken)
        self._settled.set()

    async def _gpu_memory_free(self) -> int:
        """Bytes of all GPUs together; 0 without one, or for an engine that takes none here."""
        if not self.candidate.memory:
            return 0
        return sum(gpu.free for gpu in await asyncio.to_thread(gpus, self._visible_gpus))

    async def _keep_alive(self, report: Report) -> None:
        crashes: list[float] = []
        clock = asyncio.get_running_loop().time
        while self._engine is not None:
            reason = await self._engine.ended()
            self._settled.clear()
            await self._stop_engine()
            crashes = [then for then in crashes if clock() - then < self._policy.window] + [clock()]
            failures = len(crashes)
            while self._model is None:
                if failures > self._policy.tries:
                    self._give_up(reason, failures)
                    return
                self._changed(f"The engine ended by itself and is being restarted: {reason}")
                await asyncio.sleep(self._policy.first_wait * 2 ** (failures - 1))
                try:
                    await self._start_engine(report)
                except ModelError as error:
                    reason = error.message
                    failures += 1
            self._changed("")

    def _give_up(self, reason: str, crashes: int) -> None:
        self._settled.set()
        times = "" if crashes == 1 else f" {crashes} times"
        self._changed(f"The engine failed{times} and is not restarted any more; load the model again. Reason: {reason}")

    def _changed(self, error: str) -> None:
        self._error = error
        self._on_change()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """As ChatModel; wakes an engine that is asleep. Raises EngineFailed at once when the engine is not there."""
        self.in_flight += 1
        self._idle.clear()
        try:
            if self._idle_timeout:
                await self._awake()
            if self._model is None:
                raise EngineFailed(self._error or "The engine is not running.")
            async with aclosing(self._model.stream(messages, params)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()
                self._doze_when_idle()

    async def stop(self, drain: float = 0.0) -> None:
        """Wait at most `drain` seconds for the streams in flight, then end the engine."""
        if self.in_flight and drain > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain)
        self._dozing, dozing = None, self._dozing
        for task in (dozing, self._waking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        async with self._bed:
            await self._end()
            self.asleep = False

    async def _end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self._stop_engine()
        self._settled.set()

    # -- asleep and awake -----------------------------------------------------------------------------------------

    def _doze_when_idle(self) -> None:
        if self._dozing is not None:
            self._dozing.cancel()
        self._dozing = asyncio.create_task(self._doze()) if self._idle_timeout else None

    async def _doze(self) -> None:
        await asyncio.sleep(self._idle_timeout)
        # From here on it is not cancelled by a new stream, which waits for the lock instead.
        self._dozing = None
        async with self._bed:
            if self.in_flight == 0 and self._model is not None:
                await self._end()
                self.asleep = True
                self._changed("")
            elif self.restarting:
                self._doze_when_idle()

    async def _awake(self) -> None:
        """Wait until the engine runs. Many may wait; one of them who leaves does not keep the others from it.
        Raises EngineFailed when it is stopped meanwhile."""
        if self._waking is None:
            self._waking = asyncio.create_task(self._wake())
            self._waking.add_done_callback(self._woken)
        waking = self._waking
        # Not shield, which would cancel whoever waits together with the waking.
        await asyncio.wait([waking])
        if waking.cancelled():
            raise EngineFailed("The engine was ended; try again in a moment.")
        waking.result()

    def _woken(self, over: asyncio.Task[None]) -> None:
        self._waking = None
        if not over.cancelled():
            over.exception()  # whoever waits raises it; read, for when nobody does any more

    async def _wake(self) -> None:
        async with self._bed:
            if self.asleep:
                await self.start(self._report)
                self.asleep = False
                self._changed("")

    async def _stop_engine(self) -> None:
        engine, model, self._model = self._engine, self._model, None
        if engine is not None:
            await engine.stop()
        if (close := getattr(model, "close", None)) is not None:
            await close()

    def log_tail(self) -> list[str]:
        return self._engine.log_tail() if self._engine is not None else []
