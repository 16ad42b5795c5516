"""The article's dialogue, `WS /`: messages in, frames out, `<EOS>` after each answer. What is said is ChatService's."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from api.article import Answer, chat_request
from api.article_dialogue import Dialogue, Question, is_stop
from api.errors import error_shape, unexpected
from api.visitor import seen_by, visitor
from backends.errors import QuartetError

if TYPE_CHECKING:
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService
    from rag.owners import KnowledgeOf

EOS = "<EOS>"
MAX_WAITING = 32  # messages of one connection that wait for their turn
_FRAME_SECONDS = 0.03  # between frames that all carry the whole text so far; nobody reads faster
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
_NOT_TEXT, _TRY_AGAIN_LATER = 1007, 1013


class _Gone(Exception):
    """Nobody is there to send to."""


def router(models: ModelManager, knowledge: KnowledgeService, chat: ChatService) -> APIRouter:
    """The route `WS /`."""
    routes = APIRouter()

    @routes.websocket("/")
    async def talk(socket: WebSocket) -> None:
        """Messages are answered one after the other, in their order; a client that is gone stops the generation."""
        await socket.accept()
        await Talk(socket, models, seen_by(await visitor(socket), knowledge), chat).run()

    return routes


class Talk:
    """One connection. A task reads all the time, so that a stop or a close is seen while an answer is given."""

    def __init__(self, socket: WebSocket, models: ModelManager, knowledge: KnowledgeOf, chat: ChatService) -> None:
        self._socket, self._models, self._knowledge, self._chat = socket, models, knowledge, chat
        self._dialogue = Dialogue()
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._current: asyncio.Task[None] | None = None  # the answer that is being given

    async def run(self) -> None:
        """Until the client closes the connection or is gone."""
        answering = asyncio.create_task(self._answer_all())
        try:
            # A client that never reads blocks the answers, not this loop.
            await self._read()
        finally:
            answering.cancel()
            await asyncio.wait([answering])
        if not answering.cancelled():
            with suppress(_Gone):
                answering.result()

    async def _read(self) -> None:
        while (event := await self._socket.receive())["type"] != "websocket.disconnect":
            try:
                text = event["text"] if event.get("text") is not None else event["bytes"].decode("utf-8-sig")
            except UnicodeDecodeError:
                await self._close(_NOT_TEXT, "A message must be UTF-8 text.")
                continue
            if is_stop(text):
                if self._current is not None:
                    self._current.cancel()
                continue
            try:
                self._waiting.put_nowait(text)
            except asyncio.QueueFull:
                await self._close(_TRY_AGAIN_LATER, f"At most {MAX_WAITING} messages may wait for their answers.")
            # Lets the answer begin, so that a stop which came in the same breath finds it.
            await asyncio.sleep(0)

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close(code, reason)

    async def _answer_all(self) -> None:
        while True:
            text = await self._waiting.get()
            try:
                question = self._dialogue.read(text)
                if question is not None:
                    await self._stoppable(question)
            except QuartetError as error:
                await self._send_json(error_shape(error))
            except _Gone:
                raise
            except Exception as error:  # noqa: BLE001  the connection is open already: a frame has to say it
                await self._send_json(unexpected(error))
            await self._send(EOS)

    async def _stoppable(self, question: Question) -> None:
        """Give an answer in a task of its own, which a stop may cancel."""
        answer = Answer(question.call)
        self._current = task = asyncio.create_task(self._answer(question, answer))
        try:
            await asyncio.wait([task])
        finally:
            self._current = None
            task.cancel()  # where it is not done, the connection ends: so does the answer
            await asyncio.gather(task, return_exceptions=True)  # an error at that moment is nobody's any more
        if answer.text:
            self._dialogue.answered(question.call.prompt, answer.text)
        if not task.cancelled():
            task.result()

    async def _answer(self, question: Question, answer: Answer) -> None:
        request = await chat_request(question.call, self._models, self._knowledge)
        clock, sent, last = asyncio.get_running_loop().time, 0, 0.0
        async with aclosing(self._chat.stream(request)) as deltas:
            async for delta in deltas:
                answer.add(delta)
                if question.call.stream and len(answer.text) > sent and clock() - last >= _FRAME_SECONDS:
                    await self._send_piece(question, answer, sent)
                    sent, last = len(answer.text), clock()
        if question.format == "json":
            await self._send_json(answer.complete())
        elif sent < len(answer.text) or not question.call.stream:
            await self._send_piece(question, answer, sent)

    async def _send_piece(self, question: Question, answer: Answer, sent: int) -> None:
        if question.format == "json":
            await self._send_json(answer.so_far())
            return
        text = answer.text[sent:] if question.format == "delta" else answer.text
        # Only the end of an answer is spelled so; a model that says it says it with a space.
        await self._send(text if text != EOS else EOS + " ")

    async def _send_json(self, value: dict[str, Any]) -> None:
        await self._send(json.dumps(value, ensure_ascii=False))

    async def _send(self, frame: str) -> None:
        try:
            await self._socket.send_text(frame)
        except (WebSocketDisconnect, RuntimeError) as error:  # the latter once a close was sent
            raise _Gone from error
