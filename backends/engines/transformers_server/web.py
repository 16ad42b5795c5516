"""The OpenAI chat protocol over the service: routes, the key, events. Knows no model."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.engines.transformers_server.service import Service
from backends.errors import EngineFailed, InvalidRequest, QuartetError, Unauthorized
from backends.types import Delta

_T = TypeVar("_T")

_STATUS: dict[type[QuartetError], int] = {InvalidRequest: 400, Unauthorized: 401, EngineFailed: 503}


def create_app(service: Service, name: str, key: str) -> Starlette:
    """The ASGI app: `/health` is open, everything else wants `Authorization: Bearer <key>`."""
    expected = hashlib.sha256(f"Bearer {key}".encode()).digest()

    def check_key(request: Request) -> None:
        given = hashlib.sha256(request.headers.get("authorization", "").encode()).digest()
        if not hmac.compare_digest(given, expected):
            raise Unauthorized("The key of this engine is missing or wrong.")

    async def health(request: Request) -> Response:
        if service.failure:
            return JSONResponse({"status": "failed", "error": service.failure}, 500)
        if not service.ready:
            progress = service.progress
            return JSONResponse({"stage": progress.stage, "done": progress.done, "total": progress.total}, 503)
        generator = service.loaded.generator
        counts = {"generated_tokens": generator.generated_tokens, "in_flight": generator.in_flight}
        return JSONResponse({"status": "ok", **counts})

    async def models(request: Request) -> Response:
        check_key(request)
        model = {"id": name, "object": "model", "owned_by": "quartet", "max_model_len": service.loaded.context_length}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(request: Request) -> Response:
        from backends.engines.transformers_server.request import read_request

        check_key(request)
        try:
            body = await request.json()
        except ValueError as error:
            raise InvalidRequest(f"The body is no JSON: {error}.") from error
        asked = read_request(body, service.loaded.defaults)
        # Before the status is sent, so that a refusal gets one of its own.
        prompt = await service.prompt(asked)
        answer = service.answer(prompt, asked)
        chunk = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        if asked.stream:
            return StreamingResponse(_events(answer, chunk), media_type="text/event-stream")
        whole = await _while_connected(request, _whole(answer))
        if whole is None:
            return Response(status_code=499)  # nobody reads it
        text, last = whole
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": last.finish_reason}
        return JSONResponse({**chunk, "object": "chat.completion", "choices": [choice], "usage": _usage(last)})

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, QuartetError)  # noqa: S101 - registered for it
        body = {"error": {"message": error.message, "code": error.code}}
        return JSONResponse(body, _STATUS.get(type(error), 500))

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={QuartetError: refuse})


async def _events(answer: AsyncGenerator[Delta, None], chunk: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    chunk = {**chunk, "object": "chat.completion.chunk"}
    async with aclosing(answer):
        try:
            opening: dict[str, str] = {"role": "assistant"}
            async for delta in answer:
                yield _event(chunk, delta, opening)
                opening = {}
        except QuartetError as error:
            yield b"data: " + json.dumps({"error": {"message": error.message, "code": error.code}}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, Any], delta: Delta, opening: dict[str, str]) -> bytes:
    said = {**opening, "content": delta.text, **(delta.extra or {})}
    choice = {"index": 0, "delta": said, "finish_reason": delta.finish_reason}
    event = {**chunk, "choices": [choice]}
    if delta.usage is not None:
        event["usage"] = _usage(delta)
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


async def _whole(answer: AsyncGenerator[Delta, None]) -> tuple[str, Delta]:
    texts, last = [], Delta("")
    async with aclosing(answer):
        async for delta in answer:
            texts += [delta.text, (delta.extra or {}).get("half_character", "")]
            last = delta
    return "".join(texts), last


async def _while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The result of `work`; None when the client left first, and then `work` is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


def _usage(delta: Delta) -> dict[str, int]:
    usage = delta.usage
    assert usage is not None  # noqa: S101 - the last delta carries it
    total = usage.prompt_tokens + usage.completion_tokens
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": total}
