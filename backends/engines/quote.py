"""The engine without weights: answers a question with the best-matching sentences of the passages it was given.

Knows no store and no search: the passages come with the message. It says itself that it quotes and does not generate.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from backends.errors import NoModelLoaded
from backends.types import Delta, Message, Quotation, SamplingParams, Usage

MAX_SENTENCES = 5
MAX_SENTENCE_CHARACTERS = 600

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_CJK_RUN = re.compile(f"[{_CJK}]+")
_WORD = re.compile(rf"[^\W_{_CJK}]+(?:['’][^\W_{_CJK}]+)*")
# A sentence ends after 。！？ at once, after .!? before white space, and at every line break.
_SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?])(?=\s)|(?<=[.!?][\"”’)])(?=\s)|\n+")
# Words that tell nothing about what is asked.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been but by can could did do does for from had has have how i if in into is it its me "
        "my no not of on or our shall should so than that the their them then there these they this those to us was we "
        "were what when where which who whom whose why will with would you your about tell please"
    )
)
_STOP_BIGRAMS = frozenset(
    _CJK_RUN.findall("什么 怎么 如何 哪些 哪个 多少 为什 是否 请问 这个 那个 可以 一个 是什 有哪 么是 的是")
)

_LABEL_EN = "**Quoted from your documents** (no language model is loaded, so nothing here is generated):"
_LABEL_ZH = "**以下内容直接引自您的文档**（当前没有加载语言模型，没有任何生成的文字）："
_NOTHING_CLOSE_EN = "No sentence shares a word with your question; these passages come closest in meaning:"
_NOTHING_CLOSE_ZH = "没有句子与问题用词相同；以下段落在语义上最接近："


class QuoteModel:
    """A ChatModel that quotes. Raises NoModelLoaded for a message without quotations: nothing can be quoted."""

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        if not messages or not messages[-1].quotations:
            raise NoModelLoaded(
                "No language model is loaded, so there is nothing to answer with. Load one in the model panel or start "
                "with --model-path; questions about your documents are answered with quotations in the LangChain tab."
            )
        message = messages[-1]
        question = message.question or message.content
        pieces = _pieces(question, best_sentences(question, message.quotations))
        made, finish_reason = 0, "stop"
        for piece in pieces:
            if params.max_new_tokens is not None and made + len(terms(piece)) > params.max_new_tokens:
                finish_reason = "length"
                break
            made += len(terms(piece))
            yield Delta(piece)
            # Lets whoever reads stop between two quotations.
            await asyncio.sleep(0)
        yield Delta("", finish_reason, Usage(len(terms(message.content)), made))


def _pieces(question: str, found: Sequence[Quoted]) -> list[str]:
    chinese = _CJK_RUN.search(question) is not None
    pieces = [_LABEL_ZH if chinese else _LABEL_EN]
    if all(quoted.score == 0 for quoted in found):
        pieces.append("\n\n" + (_NOTHING_CLOSE_ZH if chinese else _NOTHING_CLOSE_EN))
    return pieces + [f"\n\n> {quoted.text} [{quoted.number}]" for quoted in found]


@dataclass(frozen=True)
class Quoted:
    """One sentence of passage `number`; `score` says how much of the question it holds, 0 to 1."""

    number: int
    text: str
    score: float


def terms(text: str) -> list[str]:
    """What of a text is compared: lower-case words less a plural s, and pairs of neighbouring Chinese characters."""
    words = [_stem(word) for word in _WORD.findall(text.lower())]
    pairs = [run[i : i + 2] for run in _CJK_RUN.findall(text) for i in range(max(1, len(run) - 1))]
    return words + pairs


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def sentences(text: str) -> list[str]:
    """The sentences of a passage, white space made plain, so that each is one line of a Markdown quote."""
    parts = (" ".join(part.split()) for part in _SENTENCE_END.split(text))
    return [
        part if len(part) <= MAX_SENTENCE_CHARACTERS else part[: MAX_SENTENCE_CHARACTERS - 1] + "…"
        for part in parts
        if any(character.isalnum() for character in part)
    ]


def best_sentences(question: str, quotations: Sequence[Quotation]) -> list[Quoted]:
    """The sentences that hold most of the question, rare words counting more, best first, each text once.

    When none shares a term with the question, the first sentence of each passage, as the search ranked them.
    """
    candidates = [(quotation.number, text) for quotation in quotations for text in sentences(quotation.text)]
    term_sets = [set(terms(text)) for _, text in candidates]
    frequency = Counter(term for found in term_sets for term in found)
    asked = {term for term in terms(question) if term not in _STOP_WORDS and term not in _STOP_BIGRAMS}
    weights = {term: math.log1p(len(candidates) / frequency[term]) for term in asked if frequency[term]}
    whole = sum(weights.values())
    best: dict[str, Quoted] = {}
    for (number, text), found in zip(candidates, term_sets, strict=True):
        score = sum(weights[term] for term in found & weights.keys()) / whole if whole else 0.0
        # A heading or a fragment that only repeats the question answers nothing: short texts count a little less.
        score *= min(1.0, 0.5 + len(found) / 16)
        if score > 0 and (text not in best or score > best[text].score):
            best[text] = Quoted(number, text, score)
    ranked = sorted(best.values(), key=lambda quoted: -quoted.score)[:MAX_SENTENCES]
    if ranked:
        return [quoted for quoted in ranked if quoted.score >= 0.35 * ranked[0].score]
    firsts = ((quotation.number, sentences(quotation.text)[:1]) for quotation in quotations[:3])
    return [Quoted(number, first[0], 0.0) for number, first in firsts if first]
