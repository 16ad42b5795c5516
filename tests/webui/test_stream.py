"""Pacing a stream, and taking the teeth out of Markdown."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webui.stream import harmless, paced


async def test_what_comes_at_once_is_shown_at_once_in_one_piece() -> None:
    async def words() -> AsyncGenerator[str, None]:
        for word in ("a", "b", "c"):
            yield word

    assert [batch async for batch in paced(words(), 0.05)] == [["a", "b", "c"]]


async def test_there_is_a_beat_while_nothing_comes() -> None:
    async def slow() -> AsyncGenerator[str, None]:
        await asyncio.sleep(0.2)
        yield "late"

    batches = [batch async for batch in paced(slow(), 0.02)]
    assert batches[-1] == ["late"]
    assert batches.count([]) >= 3


async def test_closing_it_closes_the_source_even_in_the_middle_of_waiting() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[str, None]:
        try:
            yield "first"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    beats = paced(endless(), 0.02)
    assert await anext(beats) == ["first"]
    await beats.aclose()
    assert closed.is_set()


async def test_cancelling_its_reader_closes_the_source() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "more"
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async def read() -> None:
        beats = paced(endless(), 0.05)
        try:
            async for _ in beats:
                pass
        finally:
            await beats.aclose()

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert closed.is_set()


async def test_an_error_comes_after_what_came_before_it() -> None:
    async def failing() -> AsyncGenerator[str, None]:
        yield "so far"
        raise ValueError("gone")

    seen: list[list[str]] = []

    async def read() -> None:
        async for batch in paced(failing(), 0.05):
            seen.append(batch)

    with pytest.raises(ValueError, match="gone"):
        await read()
    assert seen == [["so far"]]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain *text*", "plain *text*"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("<!-- a --> <?php", "&lt;!-- a --> &lt;?php"),
        ("1 < 2 and a<b", "1 < 2 and a&lt;b"),
        ("`<b>` and <b>", "`<b>` and &lt;b>"),
        ("``<b> ` <i>`` <u>", "``<b> ` <i>`` &lt;u>"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("~~~\n<b>\n```\n<i>\n~~~\n<u>", "~~~\n<b>\n```\n<i>\n~~~\n&lt;u>"),
        ("```\nstill being written <b>", "```\nstill being written <b>"),
        ("a ` in one\n\nparagraph <b> ` two", "a ` in one\n\nparagraph &lt;b> ` two"),
        ("![x](http://a/b.png)", "&#33;[x](http://a/b.png)"),
        (r"\![x](http://a/b.png)", r"\&#33;[x](http://a/b.png)"),
        ("![x][ref]\n\n[ref]: http://a", "&#33;[x][ref]\n\n[ref]: http://a"),
    ],
)
def test_tags_are_shown_and_pictures_become_links_outside_of_code(written: str, shown: str) -> None:
    assert harmless(written) == shown


@given(st.text(alphabet="ab<>/!?[]()\\ \n*"))
def test_text_without_code_has_no_tag_and_no_picture_left(text: str) -> None:
    result = harmless(text)
    assert not re.search("<[A-Za-z/!?]", result)
    assert "![" not in result
    assert result.replace("&lt;", "<").replace("&#33;", "!") == text


def test_a_text_made_to_be_slow_is_not() -> None:
    unclosed = "".join("`" * (1 + n % 300) + "<b>" for n in range(3_000))
    began = time.process_time()
    harmless(unclosed)
    harmless("`<" * 200_000)
    assert time.process_time() - began < 5
