"""The one call behind page and API: a question goes in, an answer with its sources comes out, piece by piece.

Inside it is a LangChain Runnable, retrieve | prompt | model. Knows not how passages are found, nor which model it is.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest, NoModelLoaded
from backends.types import ChatModel, Delta
from rag.followup import leans, standalone
from rag.owners import name_of
from rag.prompt import Prompt, grounded_prompt, nothing_found, passages_as_text, plain_prompt, quoted
from rag.types import AnswerDelta, ChatRequest, Hit

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService


@dataclass(frozen=True)
class _Found:
    request: ChatRequest
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class _Prompted:
    request: ChatRequest
    prompt: Prompt


class ChatService:
    """`context_length` gives the tokens that the model in service reads at once, None when it does not say."""

    def __init__(
        self,
        model: ChatModel,
        knowledge: KnowledgeService,
        context_length: Callable[[], int | None],
        top_k: int = 4,
    ) -> None:
        self._model = model
        self._knowledge = knowledge
        self._context_length = context_length
        self._top_k = top_k

    async def stream(self, request: ChatRequest) -> AsyncGenerator[AnswerDelta, None]:
        """The answer. Closing the iterator stops the model.

        Raises before the first delta: InvalidRequest (no question, one too long, a knowledge base with nothing to
        search), NotFound (no such knowledge base), and what the model raises before its first word.
        """
        if not request.messages and not request.prompt.strip():
            raise InvalidRequest("The question is empty; type one.")
        # Nothing to retrieve, and every token of every chat goes through here.
        if not request.knowledge_base or request.mode == "model":
            async with aclosing(self._answer(await self._prompt(_Found(request, ())))) as answer:
                async for delta in answer:
                    yield delta
            return
        # LangChain takes a second to import: with the first question, and not on the event loop. The package itself
        # imports nothing; what it names is in this module.
        await asyncio.to_thread(importlib.import_module, "langchain_core.runnables.base")
        from langchain_core.runnables import RunnableGenerator, RunnableLambda

        async with AsyncExitStack() as stack:

            async def model(prompted: AsyncIterator[_Prompted]) -> AsyncIterator[AnswerDelta]:
                async for one in prompted:
                    answer = self._answer(one)
                    # A LangChain sequence that is closed leaves its steps to the garbage collector; this does not.
                    stack.push_async_callback(answer.aclose)
                    async for delta in answer:
                        yield delta

            chain = RunnableLambda(self._retrieve) | RunnableLambda(self._prompt) | RunnableGenerator(model)
            async for delta in chain.astream(request):
                yield delta

    async def _retrieve(self, request: ChatRequest) -> _Found:
        hits = await self._search(request.knowledge_base, request.prompt)
        if await asyncio.to_thread(leans, request):
            # Both count: a question that seems to lean on the one before may just as well be about something new.
            hits += await self._search(request.knowledge_base, await standalone(request, self._model))
            best = {hit.passage_id: hit for hit in sorted(hits, key=lambda hit: hit.score)}
            hits = sorted(best.values(), key=lambda hit: -hit.score)[: self._top_k]
        if not hits:
            await self._require_documents(request.knowledge_base)
        return _Found(request, tuple(hits))

    async def _search(self, base: str, question: str) -> list[Hit]:
        hits = await self._knowledge.search(base, question, self._top_k)
        return [hit for hit in hits if hit.score >= self._knowledge.tuning.threshold]

    async def _prompt(self, found: _Found) -> _Prompted:
        if found.request.messages:
            return _Prompted(found.request, Prompt(found.request.messages, None))
        context = self._context_length()
        if found.request.knowledge_base and found.request.mode == "retrieve":
            return _Prompted(found.request, quoted(found.hits))
        if found.request.knowledge_base and found.request.mode == "both":
            around = await self._knowledge.neighbours(found.hits)
            return _Prompted(found.request, grounded_prompt(found.request, found.hits, context, around))
        return _Prompted(found.request, plain_prompt(found.request, context))

    async def _answer(self, prompted: _Prompted) -> AsyncGenerator[AnswerDelta, None]:
        request, prompt = prompted.request, prompted.prompt
        if not prompt.messages:
            yield AnswerDelta(sources=prompt.sources)
            yield AnswerDelta(passages_as_text(request.prompt, prompt.sources or ()), finish_reason="stop")
            return
        async with aclosing(self._model.stream(prompt.messages, request.params)) as deltas:
            try:
                # The sources wait for the first word, so that a model that cannot answer fails before anything is sent.
                while (first := await anext(deltas, None)) is not None and first.place:
                    if request.tell_place:
                        yield AnswerDelta(place=first.place)
            except NoModelLoaded:
                if prompt.sources != ():
                    raise
                first = Delta(nothing_found(request.prompt), "stop")
            if prompt.sources is not None or prompt.notes:
                yield AnswerDelta(sources=prompt.sources, notes=prompt.notes)
            if first:
                yield _answer_delta(first)
            async for delta in deltas:
                yield _answer_delta(delta)

    async def _require_documents(self, base: str) -> None:
        """Raises InvalidRequest when the base has nothing that could have been found."""
        states = {record.state for record in await self._knowledge.files(base)}
        if "searchable" in states:
            return
        name = name_of(base)
        if not states:
            raise InvalidRequest(f"The knowledge base “{name}” is empty; upload a document and press Vectorize first.")
        if states == {"failed"}:
            raise InvalidRequest(f"None of the files in “{name}” could be read; upload a document that can be.")
        raise InvalidRequest(f"The files in “{name}” are still being read; ask again when one is searchable.")


def _answer_delta(delta: Delta) -> AnswerDelta:
    return AnswerDelta(delta.text, None, delta.finish_reason, delta.usage, delta.reasoning, delta.pieces, delta.extra)
