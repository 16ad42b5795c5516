"""Questions that lean on the ones before: searched as a model rewrites them, or together with the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from backends.errors import InvalidRequest, NoModelLoaded
from backends.types import Delta, Message, SamplingParams
from rag import followup
from rag.followup import leans, standalone
from rag.types import ChatRequest

HISTORY = (("What is the K-300?", "The K-300 is a kettle for the office."),)


class Rewriter:
    """Says `text`, `first` something else, waits, or has no model; a `strict` one takes no switches."""

    strict = False

    def __init__(
        self, text: str = "", error: Exception | None = None, silent: bool = False, first: Delta | None = None
    ) -> None:
        self.text, self.error, self.silent, self.first = text, error, silent, first
        self.messages: Sequence[Message] = ()
        self.params: SamplingParams | None = None
        self.closed = False

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.messages, self.params = messages, params
        try:
            if self.error:
                raise self.error
            if self.strict and params.extra:
                raise InvalidRequest("Unrecognized request argument: chat_template_kwargs.")
            if self.first:
                yield self.first
            if self.silent:
                await asyncio.sleep(600)
            yield Delta(self.text)
        finally:
            self.closed = True


@pytest.mark.parametrize(
    "question",
    [
        "and how do I install it?",
        "Why?",
        "What about the warranty of the small one?",
        "它怎么安装？",
        "保修期呢？",
        "那么价格是多少？",
    ],
)
def test_a_question_that_points_back_leans(question: str) -> None:
    assert leans(ChatRequest(question, HISTORY))
    assert not leans(ChatRequest(question))


@pytest.mark.parametrize("question", ["How long does the warranty of the K-300 last?", "恒温箱 K-300 的保修期是多久？"])
def test_a_question_with_names_stands_alone(question: str) -> None:
    assert not leans(ChatRequest(question, HISTORY))


async def test_the_model_is_asked_briefly_with_the_conversation() -> None:
    model = Rewriter("How do I install the K-300 kettle?\n")
    assert (
        await standalone(ChatRequest("and how do I install it?", HISTORY), model)
        == "How do I install the K-300 kettle?"
    )
    (message,) = model.messages
    assert "K-300 is a kettle" in message.content
    assert message.content.endswith("Last question: and how do I install it?")
    assert model.params is not None
    assert model.params.max_new_tokens is not None
    assert model.params.max_new_tokens <= 128
    assert model.closed


@pytest.mark.parametrize(
    "model",
    [
        Rewriter(""),
        Rewriter("word " * 500),
        Rewriter("First install it.\nThen switch it on."),
        Rewriter("Bananas are yellow."),
        Rewriter("<think>The user wants"),
        Rewriter(error=NoModelLoaded("No model is loaded.")),
    ],
)
async def test_what_is_no_question_is_not_searched_for(model: Rewriter) -> None:
    searched = await standalone(ChatRequest("and how do I install it?", HISTORY), model)
    assert searched == "What is the K-300? and how do I install it?"
    assert model.closed


@pytest.mark.parametrize("first", [Delta("", place=3), Delta("", reasoning="The user asks")], ids=["line", "thought"])
async def test_a_model_that_is_busy_or_thinks_first_is_not_waited_for(first: Delta) -> None:
    model = Rewriter(silent=True, first=first)
    async with asyncio.timeout(3):
        searched = await standalone(ChatRequest("and how do I install it?", HISTORY), model)
    assert searched == "What is the K-300? and how do I install it?"
    assert model.closed


@pytest.mark.parametrize("strict", [False, True])
async def test_a_model_that_thinks_is_asked_not_to(strict: bool) -> None:
    model = Rewriter("How do I install the K-300?")
    model.strict = strict
    assert await standalone(ChatRequest("and how do I install it?", HISTORY), model) == "How do I install the K-300?"
    assert model.params
    assert dict(model.params.extra) == ({} if strict else {"chat_template_kwargs": {"enable_thinking": False}})


async def test_a_silent_model_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followup, "PATIENCE", 0.05)
    model = Rewriter(silent=True)
    async with asyncio.timeout(30):
        assert (await standalone(ChatRequest("Why?", HISTORY), model)).startswith("What is the K-300?")
    assert model.closed
