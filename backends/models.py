"""The model in service: load, switch, unload, while people are chatting. Knows no engine by name and no web."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backends.engines.base import Report
from backends.engines.quote import QuoteModel
from backends.errors import Conflict, EngineFailed, NotReady, QuartetError
from backends.hardware import gpus, memory_free
from backends.line import Line
from backends.preparation import Room, inspect, prepare_candidate
from backends.service import RestartPolicy, Service
from backends.specs import Candidate, EngineSettings, ModelSpec, ModelStatus, State
from backends.types import Delta, Message, Progress, SamplingParams

if TYPE_CHECKING:
    from backends.families import Checkpoint

__all__ = ["EngineSettings", "ModelManager", "ModelSpec", "ModelStatus", "SwitchPolicy"]

_log = logging.getLogger(__name__)

# (spec, settings, bytes that ending the old model gives back, report) -> what to start, and whether it fits beside.
Prepare = Callable[[ModelSpec, EngineSettings, int, Report], Awaitable[tuple[Candidate, bool]]]


@dataclass(frozen=True)
class SwitchPolicy:
    """Seconds: how long a replaced model may finish its answers, and how long a request waits while none is there; the
    second begins before the first and lasts for the start of the new model too."""

    drain: float = 120.0
    wait: float = 300.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)


class ModelManager:
    """One model at a time, switched while it is used. Is itself a ChatModel: the model in service, or quote."""

    def __init__(
        self,
        settings: EngineSettings,
        prepare: Prepare = prepare_candidate,
        policy: SwitchPolicy | None = None,
    ) -> None:
        self._settings, self._prepare = settings, prepare
        self._policy = policy or SwitchPolicy(wait=settings.patience.first_token)
        self._line = Line(settings.max_in_flight, settings.max_waiting, self._policy.wait)
        self._quote = QuoteModel()
        self._service: Service | None = None
        self._newest: Service | None = None  # whose log is shown: also one that failed to start
        self._load: asyncio.Task[None] | None = None
        self._retiring: dict[asyncio.Task[None], Service] = {}
        self._loading: ModelSpec | None = None
        self._starting = False  # between "nothing serves any more" and "the new one (or the old one again) serves"
        self._awaiting = 0  # questions that wait for a model
        self._progress: Progress | None = None
        self._error = ""
        self._changed = asyncio.Event()

    @property
    def status(self) -> ModelStatus:
        service = self._service
        candidate = service.candidate if service else None
        return ModelStatus(
            state=self._state(),
            name=candidate.name if candidate else "",
            backend=candidate.backend if candidate else "quote",
            family=candidate.family if candidate else "",
            context_length=service.context_length if service else None,
            loading=self._loading.model_path or self._settings.engine_url if self._loading else "",
            progress=self._progress,
            error=(service.error if service else "") or self._error,
            serving=service is not None and (service.ready or service.asleep),
            in_flight=self._line.taken,
            waiting=self._line.waiting,
        )

    def _state(self) -> State:
        if self._loading is not None:
            return "loading"
        if self._service is not None and self._service.restarting:
            return "restarting"
        if not self._error and self._service is not None and self._service.asleep:
            return "asleep"
        if self._error or (self._service is not None and not self._service.ready):
            return "failed"
        return "ready" if self._service is not None else "empty"

    async def log_tail(self) -> list[str]:
        """The last lines that the engine wrote, or the one that failed to start; from its log on disk."""
        newest = self._newest
        return await asyncio.to_thread(newest.log_tail) if newest is not None else []

    async def changes(self) -> AsyncGenerator[ModelStatus, None]:
        """The status now, then again after each change; a slow reader sees the newest and misses those between."""
        while True:
            changed = self._changed
            yield self.status
            await changed.wait()

    def _publish(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def inspect(self, folder: str, model_type: str = "", backend: str = "auto") -> tuple[Checkpoint, Room]:
        """What is in a folder, and whether it would fit into memory as it would be loaded. Raises ModelUnusable."""
        return await asyncio.to_thread(inspect, folder, model_type, backend, self._settings)

    async def memory_free(self) -> int:
        """Bytes where a model would live."""
        return await asyncio.to_thread(lambda: memory_free(gpus(self._settings.visible_gpus)))

    # -- loading ------------------------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> ModelStatus:
        """Returns when the model is ready. Raises Conflict while another is being loaded, or why it cannot be served;
        whoever stops waiting does not stop the load."""
        if (task := self._begin(spec)) is not None:
            await asyncio.wait([task])
            if task.cancelled():
                raise Conflict("The load was given up because the model was unloaded meanwhile.")
            task.result()
        return self.status

    def start_loading(self, spec: ModelSpec) -> None:
        """The same in the background; `status` tells how it went. Raises Conflict."""
        self._begin(spec)

    def _begin(self, spec: ModelSpec) -> asyncio.Task[None] | None:
        """None when this model is in service already; loading the same one twice is one load."""
        if self._load is not None:
            if spec == self._loading:
                return self._load
            raise Conflict("Another model is being loaded; wait until it is ready, or unload it first.")
        if self._service is not None and self._service.candidate.spec == spec and self.status.serving:
            self._error = ""
            self._publish()
            return None
        self._loading, self._progress, self._error = spec, Progress("preparing"), ""
        self._load = asyncio.create_task(self._run(spec))
        self._load.add_done_callback(self._loaded)
        self._publish()
        return self._load

    async def _run(self, spec: ModelSpec) -> None:
        try:
            await self._switch(spec)
        except QuartetError as error:
            self._error = error.message
            raise
        except Exception as error:
            _log.exception("loading %s failed", spec.model_path)
            self._error = (
                "The model could not be loaded because of an internal error; the server's log has the details."
            )
            raise EngineFailed(self._error) from error

    def _loaded(self, task: asyncio.Task[None]) -> None:
        """Not in a `finally` of the task: one that is cancelled before its first step has none."""
        self._loading, self._progress, self._load, self._starting = None, None, None, False
        if not task.cancelled():
            task.exception()  # the status tells it; read, so that asyncio does not report it as never retrieved
        self._publish()

    async def _switch(self, spec: ModelSpec) -> None:
        old = self._service
        leaving = [*self._retiring.values(), *([old] if old is not None and old.ready else [])]
        given_back = sum(service.held for service in leaving)
        candidate, fits_beside = await self._prepare(spec, self._settings, given_back, self._report)
        if not fits_beside:
            await self._retired()
        self._newest = new = Service(candidate, self._publish, self._policy.restart, self._settings)
        if old is None or fits_beside:
            self._starting = old is None or not (old.ready or old.asleep)
            await new.start(self._report)
        else:
            await self._replace(old, new)
        self._service = new
        if old is not None and fits_beside:
            self._retire(old)

    async def _replace(self, old: Service, new: Service) -> None:
        """First the old one out, then the new one in; when that fails, the old one in again."""
        self._report(Progress("waiting for running answers"))
        self._starting, self._service = True, None
        try:
            await old.stop(self._policy.drain)
            await new.start(self._report)
        except BaseException:
            # Cancelled by unload or close: nobody wants the old one back.
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # this is a task
                await old.stop()
                raise
            self._report(Progress("going back to the model before"))
            with contextlib.suppress(QuartetError):
                await old.start(self._report)
                self._service = old
            raise

    def _report(self, progress: Progress) -> None:
        if progress != self._progress:
            self._progress = progress
            self._publish()

    def _retire(self, service: Service) -> None:
        task = asyncio.create_task(service.stop(self._policy.drain))
        self._retiring[task] = service
        task.add_done_callback(lambda over: self._retiring.pop(over))

    async def _retired(self) -> None:
        if self._retiring:
            await asyncio.wait(self._retiring)

    # -- answering ----------------------------------------------------------------------------------------------

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """As ChatModel; a question that finds all places taken, or no model there, waits a bounded time, and tells its
        place in line. Raises Busy when too many wait already or it stood there in vain, NotReady without a model."""
        turn = self._line.join()
        try:
            place = turn.before
            while place:
                yield Delta("", place=place)
                place = await turn.nearer(place)
            model = self._at_hand(messages)
            if model is None:
                self._awaiting += 1
                try:
                    yield Delta("", place=self._awaiting)
                    model = await self._coming(messages)
                finally:
                    self._awaiting -= 1
            async with aclosing(model.stream(messages, params)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            turn.leave()

    def _at_hand(self, messages: Sequence[Message]) -> Service | QuoteModel | None:
        """Who answers now; None while a model is on its way."""
        service = self._service
        # One that was given up is not asked while another takes its place.
        serving = service is not None and (service.ready or service.asleep)
        if service is not None and (serving or not (service.restarting or self._starting)):
            return service
        return None if self._starting or service is not None else self._without_model(messages)

    async def _coming(self, messages: Sequence[Message]) -> Service | QuoteModel:
        try:
            async with asyncio.timeout(self._policy.wait):
                while True:
                    changed = self._changed
                    if (model := self._at_hand(messages)) is not None:
                        return model
                    await changed.wait()
        except TimeoutError as error:
            raise NotReady(self._still_loading(), retry_after=10) from error

    def _without_model(self, messages: Sequence[Message]) -> QuoteModel:
        if self._loading is not None and not (messages and messages[-1].quotations):
            raise NotReady(self._still_loading(), retry_after=10)
        return self._quote

    def _still_loading(self) -> str:
        name = self.status.loading or self.status.name
        stage = self._progress.stage if self._progress else "restarting"
        return f"The model {name} is not ready yet ({stage}); try again in a moment."

    # -- ending -------------------------------------------------------------------------------------------------

    async def unload(self) -> None:
        """No model any more; a load under way is given up. Answers in flight are cut."""
        await self._give_up_load()
        service, self._service, self._newest = self._service, None, None
        self._error = ""
        ending = [*self._retiring.values(), *([service] if service is not None else [])]
        await asyncio.gather(*(one.stop() for one in ending))
        self._publish()

    async def close(self) -> None:
        """End everything, at once and for good."""
        await self.unload()
        await self._retired()

    async def _give_up_load(self) -> None:
        if self._load is not None:
            task = self._load
            task.cancel()
            await asyncio.wait([task])
