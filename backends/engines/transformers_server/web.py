"""The OpenAI chat protocol over the service: routes, the key, events. Knows no model."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.engines.transformers_server.service import Service
from backends.errors import EngineFailed, InvalidRequest, QuartetError, Unauthorized
from backends.types import Delta

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
        batcher = service.loaded.batcher
        counts = {"generated_tokens": batcher.generated_tokens, "in_flight": batcher.in_flight}
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
        text, last = await _whole(answer)
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
            async for delta in answer:
                yield _event(chunk, delta)
        except QuartetError as error:
            yield b"data: " + json.dumps({"error": {"message": error.message, "code": error.code}}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, Any], delta: Delta) -> bytes:
    choice = {"index": 0, "delta": {"content": delta.text}, "finish_reason": delta.finish_reason}
    event = {**chunk, "choices": [choice]}
    if delta.usage is not None:
        event["usage"] = _usage(delta)
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


async def _whole(answer: AsyncGenerator[Delta, None]) -> tuple[str, Delta]:
    texts, last = [], Delta("")
    async with aclosing(answer):
        async for delta in answer:
            texts.append(delta.text)
            last = delta
    return "".join(texts), last


def _usage(delta: Delta) -> dict[str, int]:
    usage = delta.usage
    assert usage is not None  # noqa: S101 - the last delta carries it
    total = usage.prompt_tokens + usage.completion_tokens
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": total}
