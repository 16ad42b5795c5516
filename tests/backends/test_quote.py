"""The quote engine: the right sentence of the right passage, labelled as a quotation, in English and in Chinese."""

from __future__ import annotations

import pytest

from backends.engines.quote import QuoteModel, best_sentences, sentences
from backends.errors import NoModelLoaded
from backends.types import Delta, Message, Quotation, SamplingParams

HARBOUR = Quotation(
    1,
    "The harbour opens at six in the morning. The ferry to Oland costs 14 crowns for adults.\n\nDogs travel free.",
    "harbour.md",
)
LIGHTHOUSE = Quotation(2, "The lighthouse was built in 1854. It is 32 metres high.", "lighthouse.pdf, page 3")
TEA = Quotation(3, "龙井茶产于杭州。冲泡龙井茶的水温应为八十度左右！新茶在四月采摘。", "茶.docx")


async def answer(question: str, *quotations: Quotation, params: SamplingParams | None = None) -> list[Delta]:
    message = Message("user", f"Use the passages. {question}", question=question, quotations=quotations)
    return [delta async for delta in QuoteModel().stream([message], params or SamplingParams())]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_the_sentence_that_answers_comes_first_with_the_number_of_its_passage() -> None:
    said = text(await answer("What does the ferry cost?", HARBOUR, LIGHTHOUSE))
    assert said.split("\n\n")[1] == "> The ferry to Oland costs 14 crowns for adults. [1]"
    assert "lighthouse" not in said


async def test_a_chinese_question_finds_its_sentence_and_is_labelled_in_chinese() -> None:
    said = text(await answer("龙井茶用多少度的水冲泡？", LIGHTHOUSE, TEA))
    label, first, *_ = said.split("\n\n")
    assert "没有加载语言模型" in label
    assert first == "> 冲泡龙井茶的水温应为八十度左右！ [3]"


async def test_the_answer_says_that_it_is_quoted_and_ends_once() -> None:
    deltas = await answer("When was the lighthouse built?", HARBOUR, LIGHTHOUSE)
    assert "no language model is loaded" in deltas[0].text
    assert "> The lighthouse was built in 1854. [2]" in text(deltas)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens > 5


async def test_a_question_with_other_words_gets_the_closest_passages_and_is_told_so() -> None:
    said = text(await answer("Pets aboard?", HARBOUR, LIGHTHOUSE))
    assert "No sentence shares a word" in said
    assert "> The harbour opens at six in the morning. [1]" in said


async def test_the_length_limit_holds() -> None:
    deltas = await answer("What does the ferry cost?", HARBOUR, params=SamplingParams(max_new_tokens=14))
    assert "ferry" not in text(deltas)
    assert deltas[-1].finish_reason == "length"


async def test_without_passages_it_says_what_to_do() -> None:
    with pytest.raises(NoModelLoaded, match=r"No language model is loaded.*--model-path"):
        await answer("Hello!")
    with pytest.raises(NoModelLoaded):
        [delta async for delta in QuoteModel().stream([], SamplingParams())]


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    passage = Quotation(1, "The pump is blue. The pump is old. The pump is loud. Its valve leaks oil.", "a.txt")
    assert best_sentences("pump valve", [passage])[0].text == "Its valve leaks oil."


def test_the_same_sentence_in_two_passages_is_quoted_once() -> None:
    again = Quotation(5, "The lighthouse was built in 1854.", "copy.txt")
    assert [quoted.number for quoted in best_sentences("lighthouse built", [LIGHTHOUSE, again])] == [2]


def test_a_quote_is_one_line_of_bounded_length() -> None:
    found = sentences("one\ttwo  three. " + "x" * 5000)
    assert found[0] == "one two three."
    assert len(found[1]) == 600
    assert sentences("3.5 metres. ---\n***\n") == ["3.5 metres."]
