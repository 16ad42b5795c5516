"""OpenAI's routes under `/v1`. They translate between the wire and the services, and do no work of their own."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from accounts.types import Visitor
from api import live
from api.errors import Shape, error_shape, unexpected
from api.openai_answer import Answer
from api.openai_request import KNOWLEDGE_BASE, Call, chat_call, embedding_call, text_call
from api.openai_schema import CHAT, EMBEDDINGS, TEXT
from api.visitor import Who, seen_by
from backends.errors import InvalidRequest, NotFound, QuartetError
from rag.types import AnswerDelta

if TYPE_CHECKING:
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService

EVENTS = "text/event-stream; charset=utf-8"


def router(models: ModelManager, knowledge: KnowledgeService, chat: ChatService) -> APIRouter:
    """The routes under `/v1`."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    started = int(time.time())

    async def answering(who: Visitor, call: Call, is_chat: bool) -> Response:
        name = models.status.name
        base = call.request.knowledge_base
        if call.model and name and call.model != name and not call.model.startswith(KNOWLEDGE_BASE):
            raise NotFound(f"There is no model '{call.model}' here; in service is '{name}'.")
        answer = Answer(KNOWLEDGE_BASE + base if base else name or "quote", is_chat, call.include_usage)

        key = await seen_by(who, knowledge).key(base) if base else ""
        request = replace(call.request, knowledge_base=key)

        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            async with aclosing(chat.stream(request)) as deltas:
                if call.stream:
                    await _stream(answer, deltas, send)
                else:
                    async for delta in deltas:
                        answer.add(delta)
                    await _json(answer.whole())(scope, receive, send)

        return live.LiveResponse(work)

    @routes.post("/chat/completions", openapi_extra=CHAT, summary="Answer a conversation")
    async def complete_chat(who: Who, request: Request) -> Response:
        """As OpenAI's. The model `kb:NAME`, or the field `knowledge_base`, answers from documents; what it was given
        to read comes as `message.sources`, in a stream in the `delta` of the event that has the `finish_reason`. What
        a reasoning model thinks comes as `reasoning_content`. Fields that are not listed go on to the engine."""
        return await answering(who, chat_call(await request.body()), is_chat=True)

    @routes.post("/completions", openapi_extra=TEXT, summary="Continue a text, without a chat template")
    async def complete_text(who: Who, request: Request) -> Response:
        """As OpenAI's older call, where the engine has it."""
        return await answering(who, text_call(await request.body()), is_chat=False)

    @routes.get("/models", summary="The model in service, and each knowledge base as kb:NAME")
    async def list_models(who: Who) -> Response:
        return _json(orjson.dumps({"object": "list", "data": await offered(who)}))

    @routes.get("/models/{name:path}", summary="One of them")
    async def one_model(who: Who, name: str) -> Response:
        for model in await offered(who):
            if model["id"] == name:
                return _json(orjson.dumps(model))
        raise NotFound(f"There is no model '{name}' here.")

    async def offered(who: Visitor) -> list[dict[str, Any]]:
        status = models.status
        seen = await seen_by(who, knowledge).list()
        bases = dict.fromkeys(KNOWLEDGE_BASE + base.name for base in seen if base.owner in ("", who.name))
        own = {"object": "model", "created": started, "owned_by": "quartet"}
        served = [{"id": status.name, **own, "max_model_len": status.context_length}] if status.name else []
        return [*served, *({"id": name, **own} for name in bases)]

    @routes.post("/embeddings", openapi_extra=EMBEDDINGS, summary="Vectors of texts")
    async def embed(request: Request) -> Response:
        """By the embedding model of the knowledge bases, whatever `model` says; the rows are normalised."""
        call = embedding_call(await request.body())

        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            vectors, tokens = await knowledge.embed(call.texts)
            if call.dimensions not in (None, vectors.shape[1]):
                raise InvalidRequest(f"dimensions can only be {vectors.shape[1]} with this model.", "dimensions")
            form: Callable[[Any], Any] = _base64 if call.base64 else (lambda row: row)
            data = [{"object": "embedding", "index": i, "embedding": form(row)} for i, row in enumerate(vectors)]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            body = {"object": "list", "data": data, "model": call.model or knowledge.embedding_model, "usage": usage}
            await _json(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))(scope, receive, send)

        return live.LiveResponse(work)

    return routes


async def _stream(answer: Answer, deltas: AsyncGenerator[AnswerDelta, None], send: Send) -> None:
    """Nothing is sent before the first delta is there, so a question that cannot be served gets its status."""
    first = await anext(deltas)
    await live.start(send, EVENTS)
    try:
        await live.write(send, answer.opening() + answer.events(first))
        async for delta in deltas:
            if events := answer.events(delta):
                await live.write(send, events)
    except QuartetError as error:
        await _fail(error_shape(error), send)
    except Exception as error:  # noqa: BLE001  the status line is out already: the stream itself has to say it
        await _fail(unexpected(error), send)
    else:
        await live.write(send, answer.ending())
        await live.finish(send)


async def _fail(error: Shape, send: Send) -> None:
    """No [DONE] after it: who overlooks the error should not take what came for the whole answer."""
    await live.write(send, b"data: " + orjson.dumps(error) + b"\n\n")
    await live.finish(send)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _base64(row: Any) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
