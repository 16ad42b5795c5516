"""Several model servers as one: the least busy is asked, a dead one is left out and taken back, answers stay whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from backends.engines.base import Report
from backends.engines.remote import PooledModel, RemoteEngine, server_roots
from backends.errors import EngineFailed, InvalidRequest
from backends.models import EngineSettings, ModelManager, ModelSpec
from backends.specs import Candidate
from backends.types import Message, SamplingParams

QUESTION = [Message("user", "hello")]


class Server:
    """A model server that can be ended and started again on its port; `fails` is how its answers go wrong."""

    def __init__(self, name: str, model: str = "m") -> None:
        self.name, self.model = name, model
        self.fails = ""
        self.asked = 0
        self.hold = asyncio.Event()  # set: answers end
        self.hold.set()
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET"):
            body = json.dumps({"data": [{"id": self.model, "max_model_len": 1000 + len(self.name)}]}).encode()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            return
        self.asked += 1
        if self.fails == "status":
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif self.fails == "full":
            writer.write(b"HTTP/1.1 429 Full\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif self.fails == "wrong":
            said = b'{"error": {"message": "max_tokens is too large"}}'
            whole = f"HTTP/1.1 400 No\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n".encode() + said
            writer.write(whole)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            if self.fails == "silent":
                return
            event = {"choices": [{"delta": {"content": self.name}}]}
            writer.write(f"data: {json.dumps(event)}\n\n".encode())
            await writer.drain()
            await self.hold.wait()
            if self.fails == "breaks":
                return
            writer.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        await writer.drain()


@asynccontextmanager
async def pool(*servers: Server, every: float = 0.05, down: tuple[Server, ...] = ()) -> AsyncIterator[PooledModel]:
    """A pool over the servers; those of `down` have ended before it starts."""
    for server in servers:
        await server.start()
    for server in down:
        await server.end()
    engine = RemoteEngine([server.root for server in servers], "", "m", check_seconds=every)
    model = await engine.start(lambda progress: None)
    try:
        yield model
    finally:
        await engine.stop()
        await model.close()
        for server in servers:
            server.hold.set()
            await server.end()


async def ask(model: PooledModel) -> str:
    return "".join([delta.text async for delta in model.stream(QUESTION, SamplingParams())])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def busy_goes_to(server: Server, model: PooledModel) -> None:
    """Asks until `server` answers, while another one is busy; those that go to the busy one are given up."""
    async with asyncio.timeout(20):
        while True:
            stream = model.stream(QUESTION, SamplingParams())
            first = (await anext(stream)).text
            await stream.aclose()
            if first == server.name:
                return
            await asyncio.sleep(0.01)


async def test_the_least_busy_server_is_asked() -> None:
    a, b, c = Server("a"), Server("b"), Server("c")
    async with pool(a, b, c) as model:
        for server in (a, b, c):
            server.hold.clear()
        answers = [asyncio.create_task(ask(model)) for _ in range(6)]
        await until(lambda: a.asked + b.asked + c.asked == 6)
        assert (a.asked, b.asked, c.asked) == (2, 2, 2)
        b.hold.set()
        await until(lambda: sum(answer.done() for answer in answers) == 2)
        answers.append(asyncio.create_task(ask(model)))
        await until(lambda: b.asked == 3)
        a.hold.set()
        c.hold.set()
        assert sorted(await asyncio.gather(*answers)) == ["a", "a", "b", "b", "b", "c", "c"]


async def test_one_that_answers_is_enough_to_start_and_the_other_is_taken_in_later() -> None:
    a, b = Server("a"), Server("bb")
    async with pool(a, b, down=(a,)) as model:
        assert {await ask(model) for _ in range(4)} == {"bb"}
        assert model.context_length == 1002
        await a.start()
        b.hold.clear()
        busy = model.stream(QUESTION, SamplingParams())
        assert (await anext(busy)).text == "bb"
        await busy_goes_to(a, model)
        await busy.aclose()


async def test_a_server_that_dies_is_left_out_and_taken_back() -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b) as model:
        await a.end()
        assert {await ask(model) for _ in range(6)} == {"b"}
        await a.start()
        b.hold.clear()
        busy = model.stream(QUESTION, SamplingParams())
        assert (await anext(busy)).text == "b"
        await busy_goes_to(a, model)
        await busy.aclose()


@pytest.mark.parametrize("fails", ["status", "full", "silent"])
async def test_what_fails_before_the_first_token_is_tried_on_another_server(fails: str) -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b, every=60) as model:
        a.fails = fails
        assert [await ask(model) for _ in range(5)] == ["b"] * 5
        assert a.asked >= 1


async def test_what_breaks_after_the_first_token_is_not_tried_again() -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b) as model:
        a.fails = b.fails = "breaks"
        stream = model.stream(QUESTION, SamplingParams())
        assert (await anext(stream)).text == "a"
        with pytest.raises(EngineFailed, match="was lost while it answered"):
            await anext(stream)
        assert a.asked + b.asked == 1


async def test_a_request_that_is_wrong_is_wrong_everywhere() -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b) as model:
        a.fails = b.fails = "wrong"
        with pytest.raises(InvalidRequest, match="too large"):
            await ask(model)
        assert a.asked + b.asked == 1


async def test_all_gone_and_one_back() -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b, every=60) as model:
        await a.end()
        await b.end()
        for _ in range(3):
            with pytest.raises(EngineFailed, match="cannot be reached"):
                await ask(model)
        await b.start()  # found by the next question, long before the next check
        assert await ask(model) == "b"


async def test_a_client_that_leaves_frees_its_place() -> None:
    a, b = Server("a"), Server("b")
    async with pool(a, b) as model:
        a.hold.clear()
        b.hold.clear()
        stream = model.stream(QUESTION, SamplingParams())
        first = (await anext(stream)).text
        await stream.aclose()
        again = model.stream(QUESTION, SamplingParams())
        assert (await anext(again)).text == first  # free again, and so the first in order
        await again.aclose()


async def test_the_manager_takes_several_addresses_and_tells_how_each_server_is(tmp_path: Path) -> None:
    a, b, other = Server("a"), Server("b"), Server("other", model="another")
    for server in (a, b, other):
        await server.start()
    await b.end()
    urls = ", ".join(server.root for server in (b, a, other))
    manager = ModelManager(EngineSettings(tmp_path, engine_url=urls))
    try:
        status = await manager.load(ModelSpec("m", backend="openai"))
        assert (status.state, status.name, status.serving) == ("ready", "m", True)
        answer = "".join([delta.text async for delta in manager.stream(QUESTION, SamplingParams())])
        assert answer == "a"
        log = "\n".join(await manager.log_tail())
        assert f"127.0.0.1:{b.port}: does not answer" in log
        assert f"127.0.0.1:{a.port}: answers" in log
        assert "has no model m; it has another" in log
    finally:
        await manager.close()
        for server in (a, other):
            await server.end()


async def test_while_none_answers_the_status_says_so_without_being_asked(tmp_path: Path) -> None:
    a = Server("a")
    await a.start()
    manager = ModelManager(EngineSettings(tmp_path, engine_url=a.root), prepare_often)
    try:
        await manager.load(ModelSpec("m", backend="openai"))
        await a.end()
        await until(lambda: not manager.status.serving)
        assert manager.status.state == "failed"
        assert manager.status.error == (
            f"The model server at 127.0.0.1:{a.port} does not answer; check --engine-url and that it runs."
        )
        await a.start()
        await until(lambda: manager.status.serving)
        assert (manager.status.state, manager.status.error) == ("ready", "")
    finally:
        await manager.close()
        await a.end()


async def prepare_often(
    spec: ModelSpec, settings: EngineSettings, given_back: int, report: Report
) -> tuple[Candidate, bool]:
    """As prepare_candidate, for an engine that asks its servers more often than a real one."""
    roots = server_roots(settings.engine_url)
    engine = partial(RemoteEngine, roots, "", spec.model_path, check_seconds=0.05)
    return Candidate(spec, spec.model_path, "openai", "", None, 0, engine), True


async def test_none_that_answers_says_why(tmp_path: Path) -> None:
    manager = ModelManager(EngineSettings(tmp_path, engine_url="http://127.0.0.1:9,http://127.0.0.1:10"))
    with pytest.raises(EngineFailed, match=r"at 127\.0\.0\.1:9 does not answer"):
        await manager.load(ModelSpec("", backend="openai"))
    await manager.close()


def test_addresses_are_separated_by_commas() -> None:
    assert server_roots("http://a:1, http://b:2/v1,http://a:1/v1,") == ["http://a:1/v1", "http://b:2/v1"]
    with pytest.raises(InvalidRequest, match="must look like"):
        server_roots("http://a:1,b:2")
