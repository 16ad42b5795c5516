"""Questions that lean on what was said before, made to stand alone, so that search finds what they mean.

"And how do I install it?" Knows no store; asks a language model only for a short line, and never waits for it long.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from backends.errors import InvalidRequest, QuartetError
from backends.types import ChatModel, Message, SamplingParams
from rag.prompt import language
from rag.types import ChatRequest
from rag.words import question_words

PATIENCE = 6.0  # seconds for the model to rewrite a question; without its help there is the question before
_LONGEST = 400  # characters of a rewritten question; what is longer is no question
_TURNS = 2  # that are shown to the model, and the beginning of their answers
_ANSWER = 400  # characters

_UNTHINKING: Mapping[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}  # no thoughts before it

_LEANS = re.compile(
    r"^\W*(?:and|but|so|then|also|or|what about|how about|why|why not|where|when|who|how)\b\W*\w*\W*$"
    r"|^\W*(?:and|but|so|then|also|what about|how about)\b"
    r"|\b(?:it|its|this|that|these|those|they|them|their|he|him|his|she|her|there|one|ones|former|latter|same)\b"
    r"|它|他|她|这|那|该|其中|其他|上述|前者|后者|此外|还有|呢[？?]?$|^(?:那么|然后|而且|但是|为什么)",
    re.IGNORECASE,
)
_TASK = {
    "en": "Rewrite the last question of this conversation so that it can be understood without the conversation: put "
    "in the names it refers to. Do not answer it. Give only the rewritten question, on one line.",
    "zh": "请改写下面对话的最后一个问题，使它脱离对话也能看懂：把其中指代的对象换成名称。"
    "不要回答，只输出改写后的问题，写在一行里。",
}
_SPEAKERS = {"en": ("User", "Assistant", "Last question"), "zh": ("用户", "助手", "最后一个问题")}


def leans(request: ChatRequest) -> bool:
    """Whether the question may not be understood without the history: it points back, or hardly names anything."""
    return bool(request.history) and (bool(_LEANS.search(request.prompt)) or len(question_words(request.prompt)) < 2)


async def standalone(request: ChatRequest, model: ChatModel) -> str:
    """What to search for: the question as the model rewrites it, else the question behind the one before it."""
    rewritten = ""
    try:
        async with asyncio.timeout(PATIENCE):
            try:
                rewritten = await _rewritten(request, model, _UNTHINKING)
            except InvalidRequest:  # a server elsewhere that has no such switch
                rewritten = await _rewritten(request, model, {})
    except (QuartetError, TimeoutError):
        pass  # no model, a busy one or a slow one: the question is answered all the same
    return rewritten or f"{request.history[-1][0]} {request.prompt}"


async def _rewritten(request: ChatRequest, model: ChatModel, extra: Mapping[str, Any]) -> str:
    params = SamplingParams(max_new_tokens=96, do_sample=False, extra=extra)
    text = ""
    async with aclosing(model.stream([_order(request)], params)) as deltas:
        async for delta in deltas:
            text += delta.text
            # No question is that long; and neither to stand in line for it nor to think about it is worth the time.
            if len(text) > _LONGEST or delta.place or delta.reasoning:
                return ""
    lines = [line.strip() for line in text.rpartition("</think>")[2].splitlines() if line.strip()]
    line = lines[0].strip("\"'“”「」 ") if len(lines) == 1 else ""
    return line if _about(line, request) else ""


def _about(line: str, request: ChatRequest) -> bool:
    """Whether a rewritten question shares a telling word with the conversation: a model may say anything."""
    said = " ".join([request.prompt, *(text for turn in request.history[-_TURNS:] for text in turn)])
    return "<think>" not in line and bool(set(question_words(line)) & set(question_words(said)))


def _order(request: ChatRequest) -> Message:
    tongue = language(request.prompt)
    return Message("user", "\n".join([_TASK[tongue], "", *_lines(request, _SPEAKERS[tongue])]))


def _lines(request: ChatRequest, speakers: Sequence[str]) -> list[str]:
    user, assistant, last = speakers
    turns = [
        line
        for question, answer in request.history[-_TURNS:]
        for line in (f"{user}: {question[:_ANSWER]}", f"{assistant}: {answer[:_ANSWER]}")
    ]
    return [*turns, f"{last}: {request.prompt[:_LONGEST]}"]
