"""Passages: short enough for the model, cut at good places, and together all of the document."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from rag import splitter
from rag.embeddings import WorkerEmbeddings
from rag.splitter import OVERLAP, TokenCounter
from rag.types import Tuning

MOST = Tuning().passage_size
ENGLISH = (
    "The keeper of the lighthouse wrote down the weather. Dr. Venn read it in the evening. "
    "Was it ever wrong? Nobody knows! "
)
CHINESE = "星河公司成立于二〇〇三年。总部设在杭州！公司的主要产品是什么？是温度传感器；也有压力传感器。"


def count(texts: Sequence[str]) -> list[int]:
    """Like a real vocabulary: short words are one token, long ones several, a Chinese character is one."""
    return [sum(1 + len(word) // 6 if word.isascii() else len(word) for word in text.split()) for text in texts]


def split(
    documents: Sequence[Document], count_tokens: TokenCounter, most: int, *reads: Callable[[str], bool]
) -> list[Document]:
    return list(splitter.split(documents, count_tokens, most, *reads))


def count_characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def count_more_together(texts: Sequence[str]) -> list[int]:
    """A vocabulary that makes more of a long text than of its parts."""
    return [len(text) + len(text) // 10 for text in texts]


prose = st.lists(
    st.one_of(
        st.sampled_from(
            ["word", "sentence.", "What?", "\n", "\n\n", " ", "你好", "结束。", "- ", "```\n", "1.", "Dr."]
        ),
        st.text(max_size=8),
        st.text("ab", min_size=30, max_size=90),
    ),
    max_size=60,
).map(" ".join)


@settings(deadline=None)
@given(
    st.lists(prose, max_size=4),
    st.integers(1, 60),
    st.sampled_from([count, count_characters, count_more_together]),
)
def test_nothing_is_lost_and_nothing_is_too_long(texts: list[str], max_tokens: int, counter: object) -> None:
    assert callable(counter)
    passages = split([Document(text, metadata={"at": at}) for at, text in enumerate(texts)], counter, max_tokens)
    assert [passage.metadata["index"] for passage in passages] == list(range(len(passages)))
    for passage in passages:
        tokens = counter([passage.page_content])[0]
        assert tokens <= max_tokens or len(passage.page_content) == 1  # one character cannot be cut
    for at, text in enumerate(texts):
        covered = 0
        for passage in passages:
            if passage.metadata["at"] == at:
                start = passage.metadata["start_index"]
                assert text.startswith(passage.page_content, start)
                assert not text[covered:start].strip()
                covered = max(covered, start + len(passage.page_content))
        assert not text[covered:].strip()


def test_metadata_is_kept_and_no_passage_spans_two_documents() -> None:
    pages = [
        Document("Page one.", metadata={"page": 1, "heading": "A"}),
        Document("Page two.", metadata={"page": 2, "heading": "A > B"}),
    ]
    first, second = split(pages, count, 100)
    assert (first.page_content, first.metadata) == (
        "Page one.",
        {"page": 1, "heading": "A", "index": 0, "start_index": 0},
    )
    assert (second.page_content, second.metadata) == (
        "Page two.",
        {"page": 2, "heading": "A > B", "index": 1, "start_index": 0},
    )


@pytest.mark.parametrize(
    ("text", "most"),
    [(ENGLISH * 40, MOST), (CHINESE * 40, MOST // 2)],
    ids=["English", "Chinese"],
)
def test_passages_are_of_the_intended_length_and_end_with_a_sentence(text: str, most: int) -> None:
    passages = split([Document(text)], count, 512)
    lengths = [len(passage.page_content) for passage in passages]
    assert all(0.8 * most <= length <= most for length in lengths[:-1])
    assert all(passage.page_content[-1] in ".?!。！？；" for passage in passages)
    assert not any(passage.page_content.endswith("Dr.") for passage in passages)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_a_passage_begins_with_the_end_of_the_one_before(text: str) -> None:
    numbered = "".join(f"{number}: {text}" for number in range(40))
    most = MOST if text.isascii() else MOST // 2
    passages = [passage.page_content for passage in split([Document(numbered)], count, 512)]
    for before, after in pairwise(passages):
        shared = max(length for length in range(len(before)) if before.endswith(after[:length]))
        assert 0 < shared <= OVERLAP * most + 1


def test_a_paragraph_that_fits_stands_whole_in_one_passage() -> None:
    paragraphs = [f"{number}. " + "The weather was fair. " * 20 + "END" for number in range(9)]
    passages = [passage.page_content for passage in split([Document("\n\n".join(paragraphs))], count, 512)]
    assert all(any(paragraph in passage for passage in passages) for paragraph in paragraphs)


def test_tokens_bound_only_what_the_model_reads() -> None:
    text = CHINESE * 40
    read, unread = (split([Document(text)], count, 100, reads) for reads in (lambda _: True, lambda _: False))
    assert max(count([passage.page_content for passage in read])) <= 100
    assert max(count([passage.page_content for passage in unread])) > 400


def test_a_word_without_end_is_cut() -> None:
    passages = split([Document("x" * 5_000)], count_characters, 128)
    assert "".join(passage.page_content for passage in passages) == "x" * 5_000


@pytest.mark.parametrize(
    "text",
    [
        "." * 300_000,
        "?!" * 150_000,
        "a\n" * 150_000,
        "\n \n" * 100_000 + "end",
        "。" * 300_000,
        "x" * 500_000,
        "No. " * 90_000,
    ],
    ids=lambda text: text[:3],
)
def test_hostile_text_is_split_in_short_pieces_and_little_time(text: str) -> None:
    longest = 0

    def counted(texts: list[str]) -> list[int]:
        nonlocal longest
        longest = max(longest, sum(map(len, texts)))
        return count_characters(texts)

    started = time.monotonic()
    passages = split([Document(text)], counted, 256)
    assert time.monotonic() - started < 20
    assert longest < 1_100_000
    assert sum(len(passage.page_content) for passage in passages) >= len("".join(text.split()))


def test_tokens_are_counted_in_batches() -> None:
    calls = []

    def counted(texts: list[str]) -> list[int]:
        calls.append(len(texts))
        return count(texts)

    passages = split([Document(ENGLISH * 300)], counted, 256)
    assert len(passages) > 50
    assert len(calls) < 10


def test_passages_fit_the_bundled_model(embeddings: WorkerEmbeddings) -> None:
    texts = [ENGLISH * 20, CHINESE * 20, "a1b2c3" * 500, "👩‍🚀🏳️‍🌈" * 200, "漢\u0301" * 700, "| --- " * 800]
    most = embeddings.description.max_tokens
    passages = split([Document(text) for text in texts], embeddings.count_tokens, most)
    counts = embeddings.count_tokens([passage.page_content for passage in passages])
    assert max(counts) <= most
    assert sum(counts) / len(counts) > most / 2


def test_no_documents_give_no_passages() -> None:
    assert split([], count, 100) == []
    assert split([Document(" \n ")], count, 100) == []


def test_passages_are_made_when_they_are_asked_for() -> None:
    begun = 0

    def pages() -> Iterator[Document]:
        nonlocal begun
        for _ in range(100):
            begun += 1
            yield Document(ENGLISH * 300)

    passages = splitter.split(pages(), count, 256)
    assert next(passages).page_content.startswith("The keeper")
    assert begun < 20
