"""One conversation on the page, the same for both tabs: chat window, input, Send, Stop, Retry, Clear."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.errors import QuartetError
from rag.types import ChatRequest
from webui import markup, sampling
from webui.conversations import Conversation, Conversations, Turn
from webui.notice import say, say_error
from webui.stream import harmless, paced
from webui.texts import Texts
from webui.visitor import visitor

if TYPE_CHECKING:
    from rag.chain import ChatService

log = logging.getLogger(__name__)

BEAT = 0.15  # seconds between two looks at the stream; Gradio notices a closed tab at a beat
STOP_LIMIT = 2.0  # seconds for an answer to end after it was asked to
MAX_QUESTION = 100_000  # characters
ANSWERS_AT_ONCE = 64  # of all visitors; the engine has its own, smaller, number of slots and its own queue


@dataclass(frozen=True)
class Dialogue:
    """The components others need: the window (for its greeting) and the input."""

    window: gr.Chatbot
    question: gr.Textbox


def messages(conversation: Conversation, texts: Texts) -> list[dict[str, Any]]:
    """The conversation as the chat window takes it. Everything from outside has been made harmless or escaped."""
    shown: list[dict[str, Any]] = []
    for turn in conversation.turns:
        shown.append({"role": "user", "content": harmless(turn.question)})
        if turn.thought:
            status = "done" if turn.answer or turn.finish_reason else "pending"  # open while it is being thought
            title = {"title": texts.thought, "status": status}
            shown.append({"role": "assistant", "content": harmless(turn.thought), "metadata": title})
        parts = [harmless(turn.answer)] if turn.answer else []
        if turn.sources is not None and (turn.finish_reason or turn.answer):
            parts.append(markup.sources(turn.sources, texts))
        if turn.notes and (turn.finish_reason or turn.answer):
            parts.append(f'<div class="q-note">{markup.escape(" ".join(turn.notes))}</div>')
        if note := _note(turn, texts):
            parts.append(f'<div class="q-note q-{turn.finish_reason}">{markup.escape(note)}</div>')
        shown += [{"role": "assistant", "content": part} for part in parts]
    return shown


def _note(turn: Turn, texts: Texts) -> str:
    if turn.place and not turn.finish_reason:
        return texts.in_line.format(place=turn.place)
    return {"stopped": texts.stopped, "length": texts.cut, "error": turn.error}.get(turn.finish_reason, "")


async def answer(
    chat: ChatService, conversation: Conversation, request: ChatRequest, texts: Texts
) -> AsyncGenerator[bool, None]:
    """Answer a question in a conversation, yielding at each beat whether there is something new to show.

    Ends early when the conversation was forgotten or its answer stopped; closing it closes the model's stream.
    """
    turn = conversation.begin(request.prompt)
    reason = "stopped"
    try:
        yield True
        async with aclosing(paced(chat.stream(request), BEAT)) as beats:
            async for batch in beats:
                if turn.stopping:
                    return
                for delta in batch:
                    turn.thought += delta.reasoning
                    turn.answer += delta.text
                    turn.place = delta.place
                    turn.sources = turn.sources if delta.sources is None else delta.sources
                    turn.finish_reason = delta.finish_reason or turn.finish_reason
                    turn.notes += delta.notes
                yield bool(batch)
        reason = "stop"
    except QuartetError as error:
        turn.error, reason = texts.error(error.code, error.message), "error"
    except Exception:
        log.exception("an answer failed")
        turn.error, reason = texts.lost, "error"
    finally:
        conversation.end(turn, reason)
    yield True


def build_dialogue(
    texts: Texts,
    name: str,
    chat: ChatService,
    conversations: Conversations,
    parameters: list[gr.components.Component],
    placeholder: str,
    greeting: str,
    documents: tuple[gr.Dropdown, gr.Radio] | None = None,
    allowed: Callable[[gr.Request, str], Awaitable[str]] | None = None,
) -> Dialogue:
    """The conversation's components and what they do; `name` tells the conversations of one visitor apart. `documents`
    are the choices of a knowledge base and of what answers, where there are any; `allowed` gives the key of a base that
    a visitor may ask, or raises NotFound."""
    window = gr.Chatbot(
        show_label=False, label=name, placeholder=greeting, elem_id=f"{name}-window", elem_classes="q-window",
        height="100%", scale=1, buttons=["copy"], sanitize_html=True, allow_tags=False, allow_file_downloads=False,
        layout="bubble", feedback_options=None, latex_delimiters=[{"left": "$$", "right": "$$", "display": True}],
    )  # fmt: skip
    with gr.Row(elem_classes="q-ask"):
        question = gr.Textbox(
            show_label=False, label=texts.question_label, placeholder=placeholder, lines=1, max_lines=8, scale=1,
            autofocus=documents is None, elem_id=f"{name}-question", submit_btn=texts.send, stop_btn=False,
        )  # fmt: skip
    with gr.Row(elem_classes="q-after"):
        retry = gr.Button(texts.retry, size="sm", variant="secondary", elem_id=f"{name}-retry", min_width=60)
        clear = gr.Button(texts.clear, size="sm", variant="secondary", elem_id=f"{name}-clear", min_width=60)

    idle = gr.update(submit_btn=texts.send, stop_btn=False)

    def of(request: gr.Request) -> Conversation:
        return conversations.get(conversation_key(request, name))

    async def stream(
        prompt: str, request: gr.Request, chosen: tuple[Any, ...], values: tuple[Any, ...], instead: bool = False
    ) -> AsyncGenerator[Any, None]:
        conversation = of(request)
        if conversation.running is not None:
            say(texts.busy_here, texts)
            yield gr.skip(), gr.skip()
            return
        if len(prompt) > MAX_QUESTION:
            say(texts.too_long.format(limit=MAX_QUESTION), texts)
            yield gr.skip(), gr.skip()
            return
        try:
            params = sampling.read(values[1:], texts)
            base = await allowed(request, chosen[0]) if allowed else ""
        except QuartetError as error:
            say_error(error, texts)
            yield gr.skip(), gr.skip()
            return
        if instead:  # of the last turn; only now, so that a wrong parameter does not cost it
            conversation.turns.pop()
        asked = ChatRequest(
            prompt=prompt, history=conversation.history, system_prompt=values[0] or "", params=params,
            knowledge_base=base, mode=chosen[1], tell_place=True,
        )  # fmt: skip
        busy = gr.update(value="", submit_btn=False, stop_btn=texts.stop)
        async with aclosing(answer(chat, conversation, asked, texts)) as beats:
            async for news in beats:
                yield (messages(conversation, texts) if news else gr.skip()), busy
                busy = gr.skip()
        # Cleared, or stopped and asked anew, meanwhile: then the window belongs to somebody else.
        if of(request) is conversation and conversation.running is None:
            yield messages(conversation, texts), idle

    def chosen_and_values(fields: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return ((fields[0] or "", fields[1] or "both"), fields[2:]) if documents else (("", "both"), fields)

    async def send(request: gr.Request, prompt: str, *fields: Any) -> AsyncGenerator[Any, None]:
        chosen, values = chosen_and_values(fields)
        if not prompt or not prompt.strip():
            yield gr.skip(), gr.skip()
            return
        if documents and not chosen[0]:
            say(texts.no_base, texts)
            yield gr.skip(), gr.skip()
            return
        async with aclosing(stream(prompt.strip(), request, chosen, values)) as updates:
            async for update in updates:
                yield update

    async def again(request: gr.Request, *fields: Any) -> AsyncGenerator[Any, None]:
        chosen, values = chosen_and_values(fields)
        conversation = of(request)
        if conversation.running is not None or not conversation.turns:
            yield gr.skip(), gr.skip()
            return
        prompt = conversation.turns[-1].question
        async with aclosing(stream(prompt, request, chosen, values, instead=True)) as updates:
            async for update in updates:
                yield update

    async def halt(request: gr.Request) -> tuple[Any, Any]:
        conversation = of(request)
        if (turn := conversation.running) is not None:
            await ended(turn)
            conversation.end(turn, "stopped")
        return messages(conversation, texts), idle

    async def forget(request: gr.Request) -> tuple[Any, Any]:
        turn = of(request).running
        conversations.forget(conversation_key(request, name))
        if turn is not None:
            await ended(turn)
        return [], idle

    fields = list(documents or ()) + parameters
    answering: dict[str, Any] = {
        "outputs": [window, question], "concurrency_id": "chat", "concurrency_limit": ANSWERS_AT_ONCE,
        "show_progress": "hidden", "api_visibility": "private",
    }  # fmt: skip
    # Queued as well: then its result reaches the browser in one stream with, and after, the last piece of the answer.
    at_once: dict[str, Any] = {
        "outputs": [window, question], "concurrency_id": "stop", "concurrency_limit": None,
        "show_progress": "hidden", "api_visibility": "private",
    }  # fmt: skip
    events = [
        question.submit(send, [question, *fields], **answering),
        retry.click(again, fields, **answering),
    ]
    question.stop(halt, cancels=events, **at_once)
    clear.click(forget, cancels=events, **at_once)
    return Dialogue(window, question)


async def ended(turn: Turn) -> None:
    """Ask a running turn to end and wait until it has. Gradio cancels its event as well; the wait makes sure that no
    piece of the answer reaches the browser after what the caller shows."""
    turn.stopping = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_LIMIT):
            await turn.ended.wait()


def conversation_key(request: gr.Request, name: str) -> str:
    """The key of a visitor's conversation. The session hash in it is a secret of that browser page; whoever learns it
    has another name, and so another conversation."""
    return f"{visitor(request).name}/{request.session_hash}/{name}"
