"""The model manager with real child processes: load, switch under use, failure, crash, unload; nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from backends.engines.base import Report
from backends.engines.server import Launch, LocalServer
from backends.errors import Busy, Conflict, EngineFailed, ModelUnusable, NoModelLoaded, NotReady
from backends.hardware import Gpu
from backends.models import EngineSettings, ModelManager, ModelSpec, ModelStatus, SwitchPolicy
from backends.openai_client import OpenAIChatModel
from backends.service import RestartPolicy
from backends.specs import Candidate
from backends.types import ChatModel, Delta, Message, Progress, Quotation, SamplingParams

SERVER = Path(__file__).with_name("scripted_server.py")
PLAIN = SamplingParams()


class ScriptedEngine:
    """The scripted server as an engine; `how` is read at each start, so that a test can change it."""

    backend = "scripted"
    trouble = ""

    def __init__(self, name: str, how: dict[str, str], log_file: Path) -> None:
        self.name, self.how = name, how
        self.server = LocalServer(self.launch, log_file, lambda lines: Progress(lines[-1]) if lines else None)

    def launch(self, port: int, key: str) -> Launch:
        return Launch(
            [sys.executable, str(SERVER), str(port), self.name, self.how.get(self.name, "")], {"SCRIPTED_KEY": key}
        )

    async def start(self, report: Report) -> ChatModel:
        await self.server.start(report)
        return OpenAIChatModel(self.server.base_url, self.name, self.server.key, context_length=4096)

    async def stop(self) -> None:
        await self.server.stop()

    async def ended(self) -> str:
        return await self.server.ended()

    def log_tail(self) -> list[str]:
        return self.server.log_tail()


class World:
    """A manager over scripted engines; `memory` holds two models of size 1 unless a test says otherwise."""

    def __init__(self, folder: Path, in_flight: int = 64, idle_timeout: float = 0.0) -> None:
        self.folder, self.memory, self.how = folder, 2, dict[str, str]()
        self.given_back = list[int]()  # what each load was told that the models before it hold
        self.held = asyncio.Event()
        self.held.set()
        # A window shorter than a start: what fails to start must be given up all the same.
        policy = SwitchPolicy(drain=20, wait=20, restart=RestartPolicy(first_wait=0.05, tries=3, window=0.05))
        settings = EngineSettings(folder, max_in_flight=in_flight, max_waiting=2, idle_timeout=idle_timeout)
        self.manager = ModelManager(settings, self.prepare, policy)

    async def prepare(
        self, spec: ModelSpec, settings: EngineSettings, given_back: int, report: Report
    ) -> tuple[Candidate, bool]:
        await self.held.wait()
        self.given_back.append(given_back)
        if spec.model_path == "no-model":
            raise ModelUnusable("no-model is no model folder.")
        engine = partial(ScriptedEngine, spec.model_path, self.how, self.folder / f"{spec.model_path}.log")
        running = len(self.engines())
        return Candidate(spec, spec.model_path, "scripted", "qwen", None, 1, engine), running < self.memory

    def engines(self) -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [child for child in children if str(self.folder) and str(SERVER) in _command(child)]

    async def ask(self, text: str, *quotations: Quotation) -> str:
        return "".join(delta.text for delta in await self.deltas(text, *quotations))

    async def deltas(self, text: str, *quotations: Quotation) -> list[Delta]:
        stream = self.manager.stream([Message("user", text, text, quotations)], PLAIN)
        return [delta async for delta in stream]

    async def until_started(self) -> None:
        """Until there is the process of an engine."""
        async with asyncio.timeout(20):
            while not self.engines():  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.02)

    async def until(self, state: str) -> ModelStatus:
        async with asyncio.timeout(20):
            async for status in self.manager.changes():
                if status.state == state:
                    return status
        raise AssertionError


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@asynccontextmanager
async def world(tmp_path: Path, in_flight: int = 64, idle_timeout: float = 0.0) -> AsyncIterator[World]:
    made = World(tmp_path, in_flight, idle_timeout)
    try:
        yield made
    finally:
        await made.manager.close()
        assert made.engines() == []


async def test_without_a_model_documents_are_quoted_and_chat_says_what_to_do(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert it.manager.status.state == "empty"
        assert it.manager.status.backend == "quote"
        assert "The sky is blue. [1]" in await it.ask("Is the sky blue?", Quotation(1, "The sky is blue.", "sky.txt"))
        with pytest.raises(NoModelLoaded):
            await it.ask("Hello")


async def test_a_loaded_model_answers(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        status = await it.manager.load(ModelSpec("alpha"))
        assert (status.state, status.name, status.backend, status.context_length) == (
            "ready",
            "alpha",
            "scripted",
            4096,
        )
        assert await it.ask("hello") == "alpha: hello"
        assert await it.manager.log_tail() == ["loading alpha"]
        await it.manager.load(ModelSpec("alpha"))
        assert len(it.engines()) == 1


async def test_a_switch_beside_the_old_model_lets_running_answers_end(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        running = [asyncio.create_task(it.ask("count 60")) for _ in range(4)]
        await asyncio.sleep(0.2)
        await it.manager.load(ModelSpec("beta"))
        assert await it.ask("hello") == "beta: hello"
        for answer in await asyncio.gather(*running):
            assert answer.startswith("alpha: 0 1 ")
            assert answer.endswith(" 58 59 ")
        for _ in range(100):
            if len(it.engines()) == 1:
                break
            await asyncio.sleep(0.05)
        assert [_command(engine)[3] for engine in it.engines()] == ["beta"]


async def test_a_switch_without_room_drains_first_and_requests_wait_for_the_new_model(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.memory = 1
        await it.manager.load(ModelSpec("alpha"))
        running = asyncio.create_task(it.ask("count 40"))
        await asyncio.sleep(0.2)
        loading = asyncio.create_task(it.manager.load(ModelSpec("beta")))
        await asyncio.sleep(0.1)
        assert it.manager.status.name == ""
        waiting = [asyncio.create_task(it.deltas("hello")) for _ in range(2)]
        assert (await running).endswith(" 39 ")
        for place, told in enumerate(await asyncio.gather(*waiting), 1):
            assert [delta.place for delta in told if delta.place] == [place]
            assert "".join(delta.text for delta in told) == "beta: hello"
        await loading
        assert len(it.engines()) == 1


@pytest.mark.parametrize("memory", [1, 2], ids=["drained", "beside"])
async def test_a_load_that_fails_brings_the_old_model_back_and_says_why(tmp_path: Path, memory: int) -> None:
    async with world(tmp_path) as it:
        it.memory, it.how = memory, {"beta": "no-memory"}
        await it.manager.load(ModelSpec("alpha"))
        with pytest.raises(EngineFailed, match="not enough memory"):
            await it.manager.load(ModelSpec("beta"))
        status = it.manager.status
        assert (status.state, status.name) == ("failed", "alpha")
        assert (await it.manager.log_tail())[0] == "loading beta"
        assert "not enough memory" in status.error
        assert await it.ask("hello") == "alpha: hello"
        assert len(it.engines()) == 1


async def test_a_model_that_cannot_be_prepared_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.manager.start_loading(ModelSpec("no-model"))
        status = await it.until("failed")
        assert (status.name, status.error, status.loading) == ("", "no-model is no model folder.", "")
        await it.manager.load(ModelSpec("alpha"))
        assert it.manager.status.error == ""


async def test_a_second_load_meanwhile_is_refused_and_chat_is_told_what_is_loading(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.held.clear()
        it.manager.start_loading(ModelSpec("alpha"))
        with pytest.raises(Conflict):
            await it.manager.load(ModelSpec("beta"))
        it.manager.start_loading(ModelSpec("alpha"))
        with pytest.raises(NotReady, match="alpha is not ready yet"):
            await it.ask("hello")
        assert "[1]" in await it.ask("Is the sky blue?", Quotation(1, "The sky is blue.", "sky.txt"))
        it.held.set()
        await it.until("ready")
        assert len(it.engines()) == 1


async def test_a_killed_engine_fails_its_streams_at_once_and_is_back_by_itself(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        running = [asyncio.create_task(it.ask("count 500")) for _ in range(4)]
        await asyncio.sleep(0.3)
        it.engines()[0].send_signal(signal.SIGKILL)
        async with asyncio.timeout(2):
            outcomes = await asyncio.gather(*running, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineFailed] * 4
        assert (await it.until("restarting")).name == "alpha"
        assert await it.ask("hello") == "alpha: hello"
        assert it.manager.status.state == "ready"
        assert it.manager.status.error == ""


async def test_an_engine_that_keeps_crashing_is_given_up_with_the_reason(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        it.how["alpha"] = "no-memory"
        with pytest.raises(EngineFailed):
            await it.ask("die")
        status = await it.until("failed")
        assert "is not restarted any more" in status.error
        assert "not enough memory" in status.error
        with pytest.raises(EngineFailed, match="load the model again"):
            await it.ask("hello")
        it.how["beta"] = "slow-start"
        it.manager.start_loading(ModelSpec("beta"))
        await it.until_started()
        assert await it.ask("hello") == "beta: hello"  # it waited, and was not sent to the one that was given up


async def test_a_switch_counts_on_all_that_an_engine_took_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([100, 30, 30, 29])  # before and after each start
    monkeypatch.setattr("backends.service.gpus", lambda visible: [Gpu(100, next(free))])
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        await it.manager.load(ModelSpec("beta"))
        assert it.given_back == [0, 70]  # where a model of size 1 was expected to take 1


async def test_unload_gives_up_a_load_and_ends_the_model(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        it.how["beta"] = "slow-start"
        loading = asyncio.create_task(it.manager.load(ModelSpec("beta")))
        await asyncio.sleep(0.3)
        await it.manager.unload()
        with pytest.raises(Conflict, match="given up"):
            await loading
        assert it.manager.status.state == "empty"
        assert it.engines() == []


async def test_unload_also_ends_a_model_that_is_being_replaced(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        running = asyncio.create_task(it.ask("count 600"))
        await asyncio.sleep(0.2)
        await it.manager.load(ModelSpec("beta"))
        assert len(it.engines()) == 2
        await it.manager.unload()
        assert it.engines() == []
        with pytest.raises(EngineFailed):
            await running


async def test_a_load_that_is_given_up_before_it_began_leaves_nothing_under_way(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.manager.start_loading(ModelSpec("alpha"))
        await it.manager.unload()  # in the same turn of the loop
        status = it.manager.status
        assert (status.state, status.loading, status.progress) == ("empty", "", None)
        await it.manager.load(ModelSpec("beta"))
        assert await it.ask("hello") == "beta: hello"


async def test_whoever_stops_waiting_for_a_load_does_not_stop_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.how["alpha"] = "slow-start"
        waiting = asyncio.create_task(it.manager.load(ModelSpec("alpha")))
        await asyncio.sleep(0.2)
        waiting.cancel()
        status = await it.until("ready")
        assert status.name == "alpha"


async def test_closing_the_stream_frees_the_model(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        stream = it.manager.stream([Message("user", "count 500")], PLAIN)
        await anext(stream)
        assert it.manager.status.in_flight == 1
        await stream.aclose()
        assert it.manager.status.in_flight == 0


async def test_so_many_are_answered_at_once_and_the_rest_stand_in_line_or_are_turned_away(tmp_path: Path) -> None:
    async with world(tmp_path, in_flight=2) as it:
        await it.manager.load(ModelSpec("alpha"))
        asked = [asyncio.create_task(it.ask("count 30")) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert (it.manager.status.in_flight, it.manager.status.waiting) == (2, 2)
        with pytest.raises(Busy) as turned_away:
            await it.ask("hello")
        assert turned_away.value.retry_after > 0
        asked.pop().cancel()  # a client that left the line
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert it.manager.status.waiting == 1
        for answer in await asyncio.gather(*asked):
            assert answer.endswith(" 28 29 ")
        assert (it.manager.status.in_flight, it.manager.status.waiting) == (0, 0)


async def test_an_idle_engine_gives_its_memory_back_and_wakes_for_the_next_question(tmp_path: Path) -> None:
    async with world(tmp_path, idle_timeout=0.5) as it:
        await it.manager.load(ModelSpec("alpha"))
        await it.ask("count 50")  # takes longer than the timeout: an engine that answers is not idle
        status = await it.until("asleep")
        assert (status.serving, status.name, status.context_length) == (True, "alpha", None)
        assert it.engines() == []
        answers = await asyncio.gather(*(it.ask(f"hello {number}") for number in range(5)))
        assert answers == [f"alpha: hello {number}" for number in range(5)]
        assert it.manager.status.state == "ready"
        assert len(it.engines()) == 1
        await it.until("asleep")


async def test_an_engine_that_cannot_wake_says_why_and_may_be_asked_again(tmp_path: Path) -> None:
    async with world(tmp_path, idle_timeout=0.3) as it:
        await it.manager.load(ModelSpec("alpha"))
        await it.until("asleep")
        it.how["alpha"] = "no-memory"
        with pytest.raises(EngineFailed, match="not enough memory"):
            await it.ask("hello")
        it.how.clear()
        assert await it.ask("hello") == "alpha: hello"


async def test_who_leaves_while_the_engine_wakes_does_not_keep_others_from_it(tmp_path: Path) -> None:
    async with world(tmp_path, idle_timeout=0.3) as it:
        it.how["alpha"] = "slow-start"
        await it.manager.load(ModelSpec("alpha"))
        await it.until("asleep")
        first, second = asyncio.create_task(it.ask("hello")), asyncio.create_task(it.ask("again"))
        await asyncio.sleep(0.3)
        first.cancel()
        assert await second == "alpha: again"


async def test_who_waits_for_an_engine_to_wake_is_told_when_it_is_unloaded(tmp_path: Path) -> None:
    async with world(tmp_path, idle_timeout=0.3) as it:
        it.how["alpha"] = "slow-start"
        await it.manager.load(ModelSpec("alpha"))
        await it.until("asleep")
        asked = asyncio.create_task(it.ask("hello"))
        async with asyncio.timeout(20):
            while not it.engines():  # noqa: ASYNC110 - another process begins
                await asyncio.sleep(0.02)
        await it.manager.unload()
        with pytest.raises(EngineFailed, match="was ended"):
            await asked


async def test_a_model_that_is_asleep_can_be_switched_and_unloaded(tmp_path: Path) -> None:
    async with world(tmp_path, idle_timeout=0.3) as it:
        await it.manager.load(ModelSpec("alpha"))
        await it.until("asleep")
        await it.manager.load(ModelSpec("beta"))
        assert await it.ask("hello") == "beta: hello"
        await it.until("asleep")
        await it.manager.unload()
        assert it.manager.status.state == "empty"


async def test_close_ends_a_model_in_mid_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.manager.load(ModelSpec("alpha"))
        running = asyncio.create_task(it.ask("count 500"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await it.manager.close()
        with pytest.raises(EngineFailed):
            await running


def test_the_manager_keeps_no_process_of_its_own() -> None:
    manager = ModelManager(EngineSettings(Path(os.devnull)))
    assert manager.status.state == "empty"
