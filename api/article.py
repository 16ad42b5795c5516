"""The article's HTTP call, `POST /`. Translates between the wire and ChatService, and does no work of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from api import live
from api.answer_json import source_json, usage_json
from api.article_request import ArticleCall, parse
from api.errors import Shape, error_shape, unexpected
from api.visitor import Who, seen_by
from backends.errors import InvalidRequest, NotFound, QuartetError
from backends.types import Message, Usage
from rag.owners import KnowledgeOf, key_of
from rag.types import AnswerDelta, ChatRequest, Source

if TYPE_CHECKING:
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService

TEXT = "text/plain; charset=utf-8"
_LONG = 2_000  # characters from which on pieces that arrived together are one object
SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["prompt"],
                    "properties": {
                        "prompt": {"type": "string"},
                        "system_prompt": {"type": "string"},
                        "history": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                        "max_new_tokens": {"type": "integer", "minimum": 1},
                        "temperature": {"type": "number", "minimum": 0},
                        "top_k": {"type": "integer", "minimum": 0},
                        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
                        "repetition_penalty": {"type": "number"},
                        "do_sample": {"type": "boolean"},
                        "seed": {"type": "integer"},
                        "stop": {"type": "array", "items": {"type": "string"}},
                        "no_template": {"type": "boolean", "default": False},
                        "use_stream_chat": {"type": "boolean", "default": False},
                        "langchain": {"type": "boolean", "default": False},
                        "knowledge_base": {"type": "string"},
                        "mode": {"type": "string", "enum": ["both", "retrieve", "model"], "default": "both"},
                    },
                }
            },
            "text/plain": {"schema": {"type": "string"}},
        },
    },
    "responses": {
        "200": {
            "description": "The answer, in the form of the question; a stream of objects is sent as text.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["response", "history", "usage", "sources"],
                        "properties": {
                            "response": {"type": "string"},
                            "history": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                            "usage": {"type": ["object", "null"]},
                            "sources": {"type": "array", "items": {"type": "object"}},
                            "notes": {"type": "array", "items": {"type": "string"}},
                        },
                    }
                },
                "text/plain": {"schema": {"type": "string"}},
            },
        }
    },
}


@dataclass
class Answer:
    """An answer as far as it is known."""

    call: ArticleCall
    text: str = ""
    sources: tuple[Source, ...] = ()
    usage: Usage | None = None
    notes: tuple[str, ...] = ()

    def add(self, delta: AnswerDelta) -> None:
        self.text += delta.text
        self.sources = delta.sources if delta.sources is not None else self.sources
        self.usage = delta.usage or self.usage
        self.notes += delta.notes

    def so_far(self) -> dict[str, Any]:
        """What every object of the stream has."""
        turns = [list(turn) for turn in self.call.history]
        return {"response": self.text, "history": [*turns, [self.call.prompt, self.text]]}

    def complete(self) -> dict[str, Any]:
        """The whole answer; `usage` is null where the engine does not count."""
        sources = [source_json(source) for source in self.sources]
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {**self.so_far(), "usage": usage_json(self.usage), "sources": sources, **notes}


def router(models: ModelManager, knowledge: KnowledgeService, chat: ChatService) -> APIRouter:
    """The route `POST /`."""
    routes = APIRouter(tags=["chat"])

    @routes.post("/", openapi_extra=SCHEMA, summary="Ask, with a text or a JSON body")
    async def ask(who: Who, request: Request) -> Response:
        """A text body is answered with text; JSON with `{"response","history","usage","sources"}`. With
        `use_stream_chat` the answer is a row of such objects, a NUL byte after each: `response` grows, and only the
        last one carries `usage`, `sources` and, where something was left out, `notes`. `langchain` answers from the
        documents of `knowledge_base`; `mode` may be `both`, `retrieve` (the passages alone) or `model` (it alone). With
        `no_template` the model goes on from the prompt as it is, for up to 512 tokens unless `max_new_tokens` says."""
        call = parse(await request.body(), request.headers.get("content-type", ""))
        question = await chat_request(call, models, seen_by(who, knowledge))

        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            async with aclosing(chat.stream(question)) as deltas:
                if call.stream:
                    await _stream(Answer(call), deltas, send)
                else:
                    await (await _whole(Answer(call), deltas))(scope, receive, send)

        return live.LiveResponse(work)

    return routes


async def chat_request(call: ArticleCall, models: ModelManager, knowledge: KnowledgeOf) -> ChatRequest:
    """What the service is asked. Raises NotFound for another model than the one in service, and InvalidRequest."""
    if call.model and call.model != models.status.name:
        raise NotFound(f"The model in service is '{models.status.name or 'none'}': leave out 'model' to use it.")
    if call.params.raw:
        return ChatRequest("", params=call.params, messages=(Message("user", call.prompt),))
    base = await _base(call, knowledge)
    return ChatRequest(call.prompt, call.history, call.system_prompt, call.params, base, mode=call.mode)


async def _base(call: ArticleCall, knowledge: KnowledgeOf) -> str:
    """The key of the base to answer from, "" for none: the one named, else the only one, else the one named default."""
    if not call.grounded or call.knowledge_base:
        return await knowledge.key(call.knowledge_base) if call.grounded else ""
    bases = await knowledge.list()
    if len(bases) == 1:
        return key_of(bases[0].owner, bases[0].name)
    names = [base.name for base in bases]
    if "default" in names:
        return await knowledge.key("default")
    if not names:
        raise InvalidRequest("There is no knowledge base yet: make one and add files to it, then ask again.")
    raise InvalidRequest(f"Say which knowledge base to ask, in the field 'knowledge_base': {', '.join(names)}.")


async def _whole(answer: Answer, deltas: AsyncGenerator[AnswerDelta, None]) -> Response:
    async for delta in deltas:
        answer.add(delta)
    if answer.call.bare:
        return PlainTextResponse(answer.text)
    return JSONResponse(answer.complete())


async def _stream(answer: Answer, deltas: AsyncGenerator[AnswerDelta, None], send: Send) -> None:
    """Nothing is sent before the first delta is there, so a question that cannot be served gets its status."""
    first = await anext(deltas)
    await live.start(send, TEXT)
    try:
        await _write(answer, first, send)
        async for delta in deltas:
            await _write(answer, delta, send)
    except QuartetError as error:
        await _fail(answer, error_shape(error), send)
    except Exception as error:  # noqa: BLE001  the status line is out already: the stream itself has to say it
        await _fail(answer, unexpected(error), send)
    else:
        if not answer.call.bare:
            await live.write(send, _packed(answer.complete()))
        await live.finish(send)


async def _write(answer: Answer, delta: AnswerDelta, send: Send) -> None:
    """The text grows by one piece of the engine with each object, also where several arrived together, until it is
    long: each object has all of it again, and what came together while the client did not read would become gigabytes.
    """
    if answer.call.bare:
        answer.add(delta)
        if delta.text:
            await live.write(send, delta.text.encode())
        return
    together = len(answer.text) > _LONG
    objects = []
    for piece in (delta.text,) if together else delta.pieces or (delta.text,):
        answer.add(replace(delta, text=piece))
        if piece:
            objects.append(_packed(answer.so_far()))
    if objects:
        await live.write(send, b"".join(objects))


async def _fail(answer: Answer, error: Shape, send: Send) -> None:
    """Bare text has no place for an error: leaving the response unfinished tells the client that it was cut off."""
    if not answer.call.bare:
        await live.write(send, _packed({**answer.so_far(), **error}))
        await live.finish(send)


def _packed(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\0"
