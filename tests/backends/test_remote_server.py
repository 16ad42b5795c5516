"""A server that somebody else runs: which model it serves, and a clear sentence for everything that can be wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.engines.remote import RemoteEngine, server_roots
from backends.engines.remote_server import Served, api_root, served_model
from backends.errors import EngineFailed, InvalidRequest
from backends.models import EngineSettings, ModelManager, ModelSpec
from backends.types import Message, SamplingParams
from tests.backends.loopback import listening

MODELS = json.dumps({"data": [{"id": "qwen", "max_model_len": 8192}, {"id": "llama"}, {"no": "id"}, 3]}).encode()
ANSWER = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@asynccontextmanager
async def server(models: bytes = MODELS, status: str = "200 OK") -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = models if head.startswith("GET /v1/models ") else ANSWER if head.startswith("POST") else b"{}"
        shown = "401 Unauthorized" if "bearer wrong" in head.lower() else status
        writer.write(f"HTTP/1.1 {shown}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()

    async with listening(serve) as url:
        yield url


async def test_the_first_model_is_served_unless_another_is_named() -> None:
    async with server() as url:
        assert await served_model(f"{url}/v1", "") == Served("qwen", 8192)
        assert await served_model(f"{url}/v1", "", "llama") == Served("llama", None)
        with pytest.raises(EngineFailed, match=r"has no model gpt; it has qwen, llama\."):
            await served_model(f"{url}/v1", "", "gpt")


async def test_an_engine_answers_through_it() -> None:
    async with server() as url:
        engine = RemoteEngine(server_roots(url), "key", "")
        model = await engine.start(lambda progress: None)
        deltas = [delta async for delta in model.stream([Message("user", "hello")], SamplingParams())]
        assert deltas[0].text == "hi"
        assert model.context_length == 8192
        await model.close()
        await engine.stop()


async def test_the_manager_serves_it_without_a_model_path(tmp_path: Path) -> None:
    async with server() as url:
        manager = ModelManager(EngineSettings(tmp_path, engine_url=url))
        status = await manager.load(ModelSpec(""))
        assert (status.state, status.name, status.backend, status.context_length) == ("ready", "qwen", "openai", 8192)
        await manager.close()


async def test_unload_cuts_answers_in_flight_with_a_clear_error(tmp_path: Path) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(MODELS)}\r\n\r\n".encode() + MODELS)
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b'data: {"choices":[{"delta":{"content":"on and "}}]}\n\n')
            await asyncio.sleep(0.02)

    async with listening(endless) as url:
        manager = ModelManager(EngineSettings(tmp_path, engine_url=url))
        await manager.load(ModelSpec(""))
        stream = manager.stream([Message("user", "hello")], SamplingParams())
        assert (await anext(stream)).text == "on and "
        await manager.unload()
        with pytest.raises(EngineFailed, match="was lost while it answered"):
            [delta async for delta in stream]
        await manager.close()


async def test_the_manager_says_what_is_missing(tmp_path: Path) -> None:
    manager = ModelManager(EngineSettings(tmp_path))
    for spec, said in (
        (ModelSpec("", backend="openai"), "--engine-url"),
        (ModelSpec(""), "Say which model"),
        (ModelSpec("x", backend="llamafile"), "no backend 'llamafile'"),
        (ModelSpec("", backend="quote"), "unload"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            await manager.load(spec)
        assert said in manager.status.error
    await manager.close()


@pytest.mark.parametrize(
    ("models", "status", "key", "said"),
    [
        (MODELS, "200 OK", "wrong", "does not accept the key; set it in QUARTET_ENGINE_KEY"),
        (b"<html>", "200 OK", "", "does not list its models"),
        (b'{"data": []}', "200 OK", "", "does not list its models"),
        (b"[" * 100_000, "200 OK", "", "does not list its models"),
        (b'{"data": [' + b"1," * 2_000_000 + b"1]}", "200 OK", "", "does not list its models"),
        (MODELS, "404 Not Found", "", "HTTP status 404"),
        (MODELS, "307 Temporary Redirect", "", "HTTP status 307"),
    ],
    ids=["key", "html", "empty", "deep", "large", "404", "redirect"],
)
async def test_what_is_no_model_server_is_named(models: bytes, status: str, key: str, said: str) -> None:
    async with server(models, status) as url:
        with pytest.raises(EngineFailed, match=said):
            await served_model(f"{url}/v1", key)


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(EngineFailed, match=r"at 127\.0\.0\.1:9 does not answer; check --engine-url"):
        await served_model("http://127.0.0.1:9/v1", "")


async def test_a_server_that_never_answers() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as url:
        with pytest.raises(EngineFailed, match="does not answer"):
            await served_model(f"{url}/v1", "", patience=0.3)


@pytest.mark.parametrize("typed", ["http://h:8000", "http://h:8000/", "http://h:8000/v1", " http://h:8000/v1/ "])
def test_the_address_may_be_typed_with_or_without_v1(typed: str) -> None:
    assert api_root(typed) == "http://h:8000/v1"
    assert api_root("https://eas.example/api/predict/x") == "https://eas.example/api/predict/x"


@pytest.mark.parametrize(
    "typed",
    ["", "h:8000", "ftp://h", "file:///etc/passwd", "http://", "http://key@h/", "http://h:99999", "http://h/?key=1"],
)
def test_an_address_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(InvalidRequest, match="must look like"):
        api_root(typed)
