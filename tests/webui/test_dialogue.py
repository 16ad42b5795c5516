"""Answering a question in a conversation, over the real chat service and a scripted model."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from backends.errors import EngineFailed
from backends.types import Delta, Message, SamplingParams
from rag.chain import ChatService
from rag.knowledge import KnowledgeService
from rag.types import ChatRequest, Hit, Source
from webui.conversations import Conversation, Turn
from webui.dialogue import BEAT, answer, messages
from webui.texts import CHINESE, ENGLISH


class Model:
    """Says `words`, then ends, fails or goes on for ever."""

    def __init__(self, *words: str, then: BaseException | None = None, endless: bool = False) -> None:
        self.words, self.then, self.endless = words, then, endless
        self.closed = False
        self.seen: Sequence[Message] = ()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.seen = messages
        try:
            for word in self.words:
                yield Delta(word)
            while self.endless:
                await asyncio.sleep(0.01)
                yield Delta("more ")
            if self.then:
                raise self.then
            yield Delta("", "stop")
        finally:
            self.closed = True


def _chat(model: Model, tmp_path: Path) -> ChatService:
    return ChatService(model, KnowledgeService(tmp_path), lambda: None)


async def _answered(model: Model, conversation: Conversation, tmp_path: Path, prompt: str = "Why?") -> Turn:
    request = ChatRequest(prompt, conversation.history)
    async for _ in answer(_chat(model, tmp_path), conversation, request, ENGLISH):
        pass
    return conversation.turns[-1]


async def test_an_answer_becomes_part_of_the_history(tmp_path: Path) -> None:
    conversation = Conversation()
    turn = await _answered(Model("Be", "cause."), conversation, tmp_path)
    assert (turn.answer, turn.finish_reason, turn.error) == ("Because.", "stop", "")
    assert conversation.running is None
    second = Model("Again.")
    await _answered(second, conversation, tmp_path, "And?")
    assert [message.content for message in second.seen if message.role != "system"] == ["Why?", "Because.", "And?"]


async def test_an_error_of_the_tree_is_shown_and_what_came_before_it_stays(tmp_path: Path) -> None:
    turn = await _answered(Model("Be", then=EngineFailed("The engine was lost; ask again.")), Conversation(), tmp_path)
    assert (turn.answer, turn.finish_reason) == ("Be", "error")
    assert turn.error == "The engine was lost; ask again."


async def test_an_unexpected_error_shows_no_internals(tmp_path: Path) -> None:
    turn = await _answered(Model(then=RuntimeError("/secret/path")), Conversation(), tmp_path)
    assert turn.finish_reason == "error"
    assert turn.error == ENGLISH.lost


async def test_closing_the_answer_closes_the_model(tmp_path: Path) -> None:
    model, conversation = Model("a ", endless=True), Conversation()
    beats = answer(_chat(model, tmp_path), conversation, ChatRequest("Why?"), ENGLISH)
    async for news in beats:
        if news and conversation.turns[0].answer:
            break
    await beats.aclose()
    assert model.closed
    assert conversation.turns[0].finish_reason == "stopped"
    assert conversation.running is None


async def test_a_stopped_or_forgotten_turn_ends_at_its_next_beat(tmp_path: Path) -> None:
    model, conversation = Model(endless=True), Conversation()
    beats = answer(_chat(model, tmp_path), conversation, ChatRequest("Why?"), ENGLISH)
    await anext(beats)
    conversation.turns[0].stopping = True
    async with asyncio.timeout(20 * BEAT):
        async for _ in beats:
            pass
    assert model.closed


def test_messages_hold_question_answer_sources_and_note() -> None:
    conversation = Conversation()
    turn = conversation.begin("Is <b> a tag?")
    assert messages(conversation, ENGLISH) == [{"role": "user", "content": "Is &lt;b> a tag?"}]
    turn.answer = "Yes. [1]"
    turn.sources = (Source(1, Hit("p", "The <b> tag.", 0.5, "tags.md", "f", None, ""), "The <b> tag."),)
    conversation.end(turn, "length")
    user, text, sources, note = messages(conversation, ENGLISH)
    assert user["role"] == "user"
    assert text == {"role": "assistant", "content": "Yes. [1]"}
    assert "The &#60;b&#62; tag" in sources["content"]
    assert "limit of new tokens" in note["content"]
    assert "最大新词元数" in messages(conversation, CHINESE)[-1]["content"]


def test_a_thought_is_folded_and_not_told_to_the_model_again() -> None:
    conversation = Conversation()
    turn = conversation.begin("Six times seven?")
    turn.thought = "Hm, <b>"
    assert messages(conversation, ENGLISH)[1:] == [
        {"role": "assistant", "content": "Hm, &lt;b>", "metadata": {"title": "Thoughts", "status": "pending"}}
    ]
    turn.answer = "Forty-two."
    conversation.end(turn, "stop")
    thought, answer = messages(conversation, ENGLISH)[1:]
    assert thought["metadata"]["status"] == "done"
    assert answer["content"] == "Forty-two."
    assert conversation.history == (("Six times seven?", "Forty-two."),)


async def test_a_question_in_line_shows_its_place_until_its_answer_begins(tmp_path: Path) -> None:
    conversation = Conversation()

    class Busy(Model):
        async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
            for place in (2, 1):
                yield Delta("", place=place)
                await asyncio.sleep(3 * BEAT)
            yield Delta("Here.", "stop")

    shown = []
    request = ChatRequest("Why?", tell_place=True)
    async for _ in answer(_chat(Busy(), tmp_path), conversation, request, ENGLISH):
        shown.append(html.unescape(messages(conversation, ENGLISH)[-1]["content"]))
    assert any("In line: number 2" in text for text in shown)
    assert any("In line: number 1" in text for text in shown)
    assert shown[-1] == "Here."
