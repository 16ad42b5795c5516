"""OpenAI's protocol over the service, chats and texts: routes, the key, events. Knows no model."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.engines.transformers_server.service import Service
from backends.errors import EngineFailed, InvalidRequest, QuartetError, Unauthorized
from backends.types import Delta

if TYPE_CHECKING:
    from backends.engines.transformers_server.request import Asked

_T = TypeVar("_T")

_STATUS: dict[type[QuartetError], int] = {InvalidRequest: 400, Unauthorized: 401, EngineFailed: 503}


@dataclass(frozen=True)
class _Form:
    """How one of the two calls writes an answer: names, the text as a whole, and a piece of it."""

    id: str
    object: str
    chunk: str
    whole: Callable[[str], dict[str, Any]]
    piece: Callable[[Delta, bool], dict[str, Any]]


def _chat_piece(delta: Delta, first: bool) -> dict[str, Any]:
    opening = {"role": "assistant"} if first else {}
    return {"delta": {**opening, "content": delta.text, **(delta.extra or {})}}


_CHAT = _Form(
    "chatcmpl", "chat.completion", "chat.completion.chunk",
    lambda text: {"message": {"role": "assistant", "content": text}}, _chat_piece,
)  # fmt: skip
_TEXT = _Form(
    "cmpl", "text_completion", "text_completion",
    lambda text: {"text": text}, lambda delta, first: {"text": delta.text, **(delta.extra or {})},
)  # fmt: skip


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
        from backends.engines.transformers_server.request import read_chat

        return await answered(request, read_chat, _CHAT)

    async def completion(request: Request) -> Response:
        from backends.engines.transformers_server.request import read_completion

        return await answered(request, read_completion, _TEXT)

    async def answered(request: Request, read: Callable[[object, Any], Asked], form: _Form) -> Response:
        check_key(request)
        try:
            body = await request.json()
        except ValueError as error:
            raise InvalidRequest(f"The body is no JSON: {error}.") from error
        asked = read(body, service.loaded.defaults)
        # Before the status is sent, so that a refusal gets one of its own.
        prompt = await service.prompt(asked)
        answer = service.answer(prompt, asked)
        head = {"id": f"{form.id}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        if asked.stream:
            return StreamingResponse(_events(answer, head, form), media_type="text/event-stream")
        whole = await _while_connected(request, _whole(answer))
        if whole is None:
            return Response(status_code=499)  # nobody reads it
        text, last = whole
        choice = {"index": 0, **form.whole(text), "finish_reason": last.finish_reason}
        return JSONResponse({**head, "object": form.object, "choices": [choice], "usage": _usage(last)})

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, QuartetError)  # noqa: S101 - registered for it
        body = {"error": {"message": error.message, "code": error.code}}
        return JSONResponse(body, _STATUS.get(type(error), 500))

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={QuartetError: refuse})


async def _events(
    answer: AsyncGenerator[Delta, None], head: dict[str, Any], form: _Form
) -> AsyncGenerator[bytes, None]:
    head = {**head, "object": form.chunk}
    async with aclosing(answer):
        try:
            first = True
            async for delta in answer:
                yield _event(head, delta, form.piece(delta, first))
                first = False
        except QuartetError as error:
            yield b"data: " + json.dumps({"error": {"message": error.message, "code": error.code}}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


def _event(head: dict[str, Any], delta: Delta, said: dict[str, Any]) -> bytes:
    event = {**head, "choices": [{"index": 0, **said, "finish_reason": delta.finish_reason}]}
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
