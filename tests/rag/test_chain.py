from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from backends.engines.quote import QuoteModel
from backends.errors import EngineFailed, InvalidRequest, NoModelLoaded, NotFound
from backends.types import ChatModel, Delta, Message, SamplingParams, Usage
from rag.chain import ChatService
from rag.knowledge import KnowledgeService
from rag.types import AnswerDelta, ChatRequest
from tests.rag.hashed_embeddings import HashedEmbeddings


class EndlessModel:
    """Says a word every millisecond until its stream is closed."""

    def __init__(self) -> None:
        self.messages: Sequence[Message] = ()
        self.said = 0
        self.closed = False
        self.speaking = asyncio.Event()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.messages = messages
        try:
            while True:
                self.said += 1
                self.speaking.set()
                yield Delta("word ")
                await asyncio.sleep(0.001)
        finally:
            self.closed = True


class BriefModel:
    """Says one sentence, or fails before or after its first word."""

    def __init__(self, fail_before: bool = False, fail_after: bool = False) -> None:
        self.fail_before = fail_before
        self.fail_after = fail_after

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        if self.fail_before:
            raise EngineFailed("The engine is gone.")
        yield Delta("36 months [1]")
        if self.fail_after:
            raise EngineFailed("The engine is gone.")
        yield Delta(".", "stop", Usage(9, 4))


@pytest.fixture
async def base(tmp_path: Path) -> AsyncGenerator[KnowledgeService, None]:
    """A knowledge service with the bases "manual" (one file), "empty" and "broken" (a file that cannot be read)."""
    service = KnowledgeService(tmp_path / "data", embeddings=HashedEmbeddings())
    await service.start()
    manual, broken = tmp_path / "manual.txt", tmp_path / "broken.doc"
    manual.write_text("The warranty of the pump lasts 36 months. 水泵的保修期为三十六个月。", "utf-8")
    broken.write_bytes(b"x")
    for name in ("manual", "empty", "broken"):
        await service.create(name)
    record = await service.add_file("manual", "manual.txt", manual)
    failed = await service.add_file("broken", "broken.doc", broken)
    await service.wait("manual", [record.id])
    await service.wait("broken", [failed.id])
    yield service
    await service.close()


def chat(model: ChatModel, knowledge: KnowledgeService) -> ChatService:
    return ChatService(model, knowledge, lambda: 4096)


async def collect(service: ChatService, request: ChatRequest) -> list[AnswerDelta]:
    return [delta async for delta in service.stream(request)]


async def test_an_answer_from_documents_begins_with_its_sources(base: KnowledgeService) -> None:
    request = ChatRequest("How long is the warranty of the pump?", knowledge_base="manual")
    first, *rest = await collect(chat(BriefModel(), base), request)
    assert first.text == ""
    assert first.sources is not None
    (source,) = first.sources
    assert source.number == 1
    assert source.hit.file == "manual.txt"
    assert "36 months" in source.hit.text
    assert "".join(delta.text for delta in rest) == "36 months [1]."
    assert [delta.sources for delta in rest] == [None, None]
    assert (rest[-1].finish_reason, rest[-1].usage) == ("stop", Usage(9, 4))


async def test_plain_chat_has_no_sources_and_no_documents(base: KnowledgeService) -> None:
    model = EndlessModel()
    answer = chat(model, base).stream(ChatRequest("How long is the warranty?", (("Hi", "Hello"),), "Be brief."))
    assert (await anext(answer)).sources is None
    await answer.aclose()
    assert [m.role for m in model.messages] == ["system", "user", "assistant", "user"]
    assert model.messages[-1].content == "How long is the warranty?"


@pytest.mark.parametrize("knowledge_base", ["", "manual"])
async def test_closing_the_answer_closes_the_model_at_once(base: KnowledgeService, knowledge_base: str) -> None:
    model = EndlessModel()
    answer = chat(model, base).stream(ChatRequest("the warranty of the pump?", knowledge_base=knowledge_base))
    for _ in range(5):
        await anext(answer)
    await answer.aclose()
    assert model.closed
    said = model.said
    await asyncio.sleep(0.05)
    assert model.said == said


async def test_a_cancelled_reader_closes_the_model(base: KnowledgeService) -> None:
    model = EndlessModel()
    reader = asyncio.create_task(collect(chat(model, base), ChatRequest("Hi")))
    await asyncio.wait_for(model.speaking.wait(), timeout=30)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert model.closed


async def test_what_cannot_be_answered_fails_before_the_first_delta(base: KnowledgeService) -> None:
    service = chat(BriefModel(), base)
    with pytest.raises(NotFound, match="no-such-base"):
        await anext(service.stream(ChatRequest("Hi", knowledge_base="no-such-base")))
    with pytest.raises(InvalidRequest, match="empty"):
        await anext(service.stream(ChatRequest("Hi", knowledge_base="empty")))
    with pytest.raises(InvalidRequest, match="could be read"):
        await anext(service.stream(ChatRequest("Hi", knowledge_base="broken")))
    with pytest.raises(InvalidRequest, match="question is empty"):
        await anext(service.stream(ChatRequest("  ")))
    with pytest.raises(EngineFailed):
        await anext(
            chat(BriefModel(fail_before=True), base).stream(ChatRequest("warranty pump", knowledge_base="manual"))
        )


async def test_a_later_failure_comes_after_what_was_said(base: KnowledgeService) -> None:
    answer = chat(BriefModel(fail_after=True), base).stream(ChatRequest("Hi"))
    assert (await anext(answer)).text == "36 months [1]"
    with pytest.raises(EngineFailed):
        await anext(answer)


async def test_the_quote_engine_answers_in_the_words_of_the_documents(base: KnowledgeService) -> None:
    service = chat(QuoteModel(), base)
    deltas = await collect(service, ChatRequest("How long is the warranty of the pump?", knowledge_base="manual"))
    assert "36 months" in "".join(delta.text for delta in deltas)
    assert deltas[0].sources
    chinese = await collect(service, ChatRequest("水泵的保修期是多久？", knowledge_base="manual"))
    assert "三十六个月" in "".join(delta.text for delta in chinese)


@pytest.mark.parametrize(("question", "sentence"), [("hello", "in your documents"), ("你好", "文档中没有")])
async def test_without_model_and_passages_the_documents_are_said_to_lack_it(
    base: KnowledgeService, question: str, sentence: str
) -> None:
    first, answer = await collect(chat(QuoteModel(), base), ChatRequest(question, knowledge_base="manual"))
    assert first.sources == ()
    assert sentence in answer.text
    assert answer.finish_reason == "stop"


async def test_plain_chat_without_a_model_says_what_to_do(base: KnowledgeService) -> None:
    with pytest.raises(NoModelLoaded):
        await anext(chat(QuoteModel(), base).stream(ChatRequest("hello")))


async def test_what_is_below_the_threshold_does_not_reach_the_model(base: KnowledgeService) -> None:
    model = EndlessModel()
    answer = chat(model, base).stream(ChatRequest("Who won the chess tournament?", knowledge_base="manual"))
    assert (await anext(answer)).sources == ()
    await answer.aclose()
    assert "36 months" not in model.messages[-1].content


async def test_retrieve_only_answers_with_the_passages_and_asks_no_model(base: KnowledgeService) -> None:
    model = EndlessModel()
    request = ChatRequest("How long is the warranty of the pump?", knowledge_base="manual", mode="retrieve")
    first, *rest = await collect(chat(model, base), request)
    assert first.sources is not None
    assert [source.hit.file for source in first.sources] == ["manual.txt"]
    text = "".join(delta.text for delta in rest)
    assert text.startswith("[1] manual.txt\n")
    assert "36 months" in text
    assert rest[-1].finish_reason == "stop"
    assert model.said == 0


@pytest.mark.parametrize(("question", "said"), [("hello", "Nothing in your documents"), ("你好", "您的文档中没有")])
async def test_retrieve_only_says_plainly_that_nothing_was_found(
    base: KnowledgeService, question: str, said: str
) -> None:
    first, last = await collect(
        chat(EndlessModel(), base), ChatRequest(question, knowledge_base="manual", mode="retrieve")
    )
    assert first.sources == ()
    assert last.text.startswith(said)


async def test_model_only_asks_no_documents(base: KnowledgeService) -> None:
    model = EndlessModel()
    answer = chat(model, base).stream(ChatRequest("warranty of the pump?", knowledge_base="manual", mode="model"))
    assert (await anext(answer)).sources is None
    await answer.aclose()
    assert [message.content for message in model.messages] == ["warranty of the pump?"]


async def test_a_question_that_leans_on_the_one_before_finds_what_it_means(base: KnowledgeService) -> None:
    history = (("Which pump do we have?", "The pump of the cellar."),)
    request = ChatRequest("And how long is its warranty in months?", history, knowledge_base="manual")
    first, *_ = await collect(chat(BriefModel(), base), request)
    assert first.sources


async def test_what_does_not_fit_is_told(base: KnowledgeService) -> None:
    history = tuple((f"question {n} " + "x" * 300, f"answer {n}") for n in range(50))
    first, *_ = await collect(ChatService(BriefModel(), base, lambda: 2048), ChatRequest("Is it open?", history))
    (note,) = first.notes
    assert "of 50 earlier turns were left out" in note


async def test_the_place_in_line_is_told_to_who_asks_for_it_and_nobody_else(base: KnowledgeService) -> None:
    class Waiting(BriefModel):
        async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
            yield Delta("", place=1)
            async for delta in super().stream(messages, params):
                yield delta

    chat = ChatService(Waiting(), base, lambda: None)
    asked = [delta async for delta in chat.stream(ChatRequest("How long?", tell_place=True))]
    assert asked[0] == AnswerDelta(place=1)
    quiet = [delta async for delta in chat.stream(ChatRequest("How long?"))]
    assert quiet == asked[1:]
