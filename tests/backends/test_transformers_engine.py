"""The transformers engine as a process: its door, what it tells while it loads, who leaves, how it ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from backends.engines.transformers import TransformersEngine
from backends.errors import EngineFailed
from backends.openai_client import OpenAIChatModel
from backends.types import Message, Progress, SamplingParams
from tests.checkpoints import CONTEXT_LENGTH, ENDLESS, knows_by_heart, never_ends

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASK = [Message("user", "go")]


class Running:
    """An engine that talks until it is stopped, its model and its HTTP door."""

    def __init__(self, engine: TransformersEngine, model: OpenAIChatModel, told: list[Progress]) -> None:
        self.engine, self.model, self.told = engine, model, told
        self.root = engine._server.base_url.removesuffix("/v1")
        self.http = httpx.AsyncClient(
            base_url=self.root, headers={"Authorization": f"Bearer {engine._server.key}"}, trust_env=False
        )

    async def counts(self) -> dict[str, Any]:
        return dict((await self.http.get("/health")).json())

    async def made_until_still(self) -> int:
        """Tokens made when no more are made; fails when that takes long."""
        deadline = time.monotonic() + 5
        before = -1
        while time.monotonic() < deadline:
            counts = await self.counts()
            if counts["in_flight"] == 0 and counts["generated_tokens"] == before:
                return before
            before = counts["generated_tokens"]
            await asyncio.sleep(0.4)
        raise AssertionError("it still generates")


async def started(folder: Path, logs: Path) -> Running:
    told: list[Progress] = []
    engine = TransformersEngine(folder, "small", "auto", logs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        try:
            return Running(engine, await engine.start(told.append), told)
        except BaseException:
            await engine.stop()
            raise


async def ended(running: Running) -> None:
    await running.http.aclose()
    await running.model.close()
    await running.engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    running = await started(await asyncio.to_thread(never_ends), tmp_path_factory.mktemp("endless"))
    yield running
    await ended(running)


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "go"}], **fields}


async def test_it_tells_how_far_loading_is(endless: Running) -> None:
    assert endless.told[0].stage == "starting transformers"
    assert "loading weights" in {progress.stage for progress in endless.told}


async def test_it_listens_on_loopback_only(endless: Running) -> None:
    port = int(endless.root.rsplit(":", 1)[1])
    listening = [place for place in psutil.net_connections("tcp") if place.laddr and place.laddr.port == port]
    assert {place.laddr.ip for place in listening if place.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic {key}", "Bearer {key}x"])
async def test_without_the_key_only_its_health_is_told(endless: Running, key: str) -> None:
    headers = {"Authorization": key.format(key=endless.engine._server.key)}
    async with httpx.AsyncClient(base_url=endless.root, headers=headers, trust_env=False) as stranger:
        assert (await stranger.get("/health")).status_code == 200
        assert (await stranger.get("/v1/models")).status_code == 401
        assert (await stranger.post("/v1/chat/completions", json=body(max_tokens=1))).status_code == 401


async def test_the_key_is_in_no_command_line(endless: Running) -> None:
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("transformers_server" in line for line in lines)
    assert not any(endless.engine._server.key in line for line in lines)


async def test_a_whole_answer_in_one_piece(endless: Running) -> None:
    answer = (await endless.http.post("/v1/chat/completions", json=body(max_tokens=12), timeout=30)).json()
    assert answer["object"] == "chat.completion"
    assert ENDLESS * 2 in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


async def test_a_stream_in_the_words_of_openai(endless: Running) -> None:
    lines: list[str] = []
    async with endless.http.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=6)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1]["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"{", "The body is no JSON"),
        (b"[]", "The body must be a JSON object."),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 99}', "temperature must be between"),
    ],
)
async def test_a_bad_request_gets_a_sentence(endless: Running, sent: bytes, sentence: str) -> None:
    response = await endless.http.post("/v1/chat/completions", content=sent)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


async def prompt_tokens(running: Running, text: str) -> int:
    answer = await running.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": 1}, timeout=30
    )
    return int(answer.json()["usage"]["prompt_tokens"])


async def test_an_answer_is_cut_where_the_context_ends(endless: Running) -> None:
    words = [await prompt_tokens(endless, "tick " * count) for count in (100, 200)]
    each = (words[1] - words[0]) / 100
    prompt = "tick " * int((CONTEXT_LENGTH - 100) / each)
    stream = endless.model.stream([Message("user", prompt)], SamplingParams(max_new_tokens=5_000))
    last = [delta async for delta in stream][-1]
    assert last.usage is not None
    assert last.finish_reason == "length"
    assert last.usage.prompt_tokens + last.usage.completion_tokens == CONTEXT_LENGTH


async def test_whoever_leaves_a_stream_frees_the_engine(endless: Running) -> None:
    async with aclosing(endless.model.stream(ASK, SamplingParams())) as stream:
        for _ in range(5):
            await anext(stream)
    left = time.monotonic()
    assert await endless.made_until_still() > 0
    assert time.monotonic() - left < 5


async def test_whoever_leaves_before_the_whole_answer_frees_the_engine(endless: Running) -> None:
    before = (await endless.counts())["generated_tokens"]
    with pytest.raises(httpx.ReadTimeout):
        await endless.http.post("/v1/chat/completions", json=body(), timeout=1.5)
    assert await endless.made_until_still() > before


async def test_leaving_while_the_prompt_is_read_frees_the_engine(endless: Running) -> None:
    long = [{"role": "user", "content": "tick tock " * (CONTEXT_LENGTH // 8)}]
    with pytest.raises(httpx.ReadTimeout):
        await endless.http.post("/v1/chat/completions", json={"messages": long, "stream": True}, timeout=0.3)
    await endless.made_until_still()


async def test_killed_in_the_middle_every_stream_ends_with_an_error(tmp_path: Path) -> None:
    running = await started(await asyncio.to_thread(never_ends), tmp_path)
    try:
        streams = [running.model.stream(ASK, SamplingParams()) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        reason = asyncio.create_task(running.engine.ended())
        process = running.engine._server._process
        assert process is not None
        assert process.pid is not None
        psutil.Process(process.pid).kill()

        async def lost(stream: Any) -> str:
            try:
                async for _ in stream:
                    pass
            except EngineFailed as error:
                return error.message
            return "it went on"

        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*map(lost, streams))) == {
                "The engine was lost while it answered; ask again in a moment."
            }
            assert "killed" in await reason
    finally:
        await ended(running)


async def test_damaged_weights_are_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(await asyncio.to_thread(knows_by_heart), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    with pytest.raises(EngineFailed) as caught:
        await started(folder, tmp_path)
    assert caught.value.message.startswith("The engine did not start: ")
    assert "Traceback" not in caught.value.message
    assert "damaged" in caught.value.message
