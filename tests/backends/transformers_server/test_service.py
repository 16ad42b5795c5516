"""A service that cannot go on says so: to the streams, in /health, and by ending its process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from backends.engines.transformers_server.sampling import Drawer
from backends.engines.transformers_server.service import Service
from backends.engines.transformers_server.web import create_app
from tests.checkpoints import knows_by_heart, never_ends


@pytest.fixture
async def door() -> AsyncIterator[Any]:
    """A function that gives an HTTP client of a service."""
    clients: list[httpx.AsyncClient] = []

    def connect(service: Service) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(create_app(service, "small", "key"))
        headers = {"Authorization": "Bearer key"}
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


async def ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await client.get("/health")).status_code == 503:  # noqa: ASYNC110 - asked over HTTP, as the app does
            await asyncio.sleep(0.1)


BODY = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 400}


async def test_when_the_generation_breaks_streams_health_and_process_end_with_the_reason(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, over = Service(await asyncio.to_thread(never_ends), "auto"), threading.Event()
    service.run_in_background(over.set)
    client = door(service)
    await ready(client)
    assert (await client.post("/v1/chat/completions", json=BODY | {"max_tokens": 3})).status_code == 200

    def broken(self: Drawer, context: Any, scores: Any) -> torch.Tensor:
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(Drawer, "draw", broken)
    asked = BODY | {"temperature": 1.0}
    stream = client.post("/v1/chat/completions", json=asked | {"stream": True})
    streamed, whole = await asyncio.gather(stream, client.post("/v1/chat/completions", json=asked))
    assert '{"error": {"message": "the device was lost"' in streamed.text
    assert "[DONE]" in streamed.text
    assert (whole.status_code, whole.json()["error"]["message"]) == (503, "the device was lost")
    # The library ends the streams first and says why the loop is over a moment later.
    async with asyncio.timeout(30):
        while (health := await client.get("/health")).status_code == 200:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.02)
    assert (health.status_code, health.json()["error"]) == (500, "the device was lost")
    assert await asyncio.to_thread(over.wait, 10)
    assert service.failure == "the device was lost"


async def test_before_the_model_is_there_it_tells_the_stage_and_takes_no_request(door: Any) -> None:
    client = door(Service(Path("nowhere"), "auto"))
    health = await client.get("/health")
    assert (health.status_code, health.json()) == (503, {"stage": "starting transformers", "done": 0, "total": 0})
    response = await client.post("/v1/chat/completions", json=BODY)
    assert response.status_code == 503
    assert "still being loaded" in response.json()["error"]["message"]


async def test_what_cannot_be_loaded_is_told_and_ends_the_process(door: Any, tmp_path: Path) -> None:
    service, over = Service(tmp_path, "auto"), threading.Event()
    service.run_in_background(over.set)
    assert await asyncio.to_thread(over.wait, 60)
    health = await door(service).get("/health")
    assert health.status_code == 500
    assert "config.json" in health.json()["error"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_it_answers_in_the_precision_asked_for(door: Any, precision: str) -> None:
    service = Service(await asyncio.to_thread(knows_by_heart), precision)
    service.run_in_background(lambda: None)
    client = door(service)
    await ready(client)
    question = {"messages": [{"role": "user", "content": "Who keeps the bees?"}]}
    response = await client.post("/v1/chat/completions", json=question)
    assert response.json()["choices"][0]["message"]["content"] == "Old Marta keeps the bees."
