"""Pure functions about streams of text: pacing, and text that cannot act as anything but text; knows no Gradio."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import TypeVar

Item = TypeVar("Item")

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_BLANK_LINES = re.compile(r"(\n[ \t]*\n)")


async def paced(source: AsyncGenerator[Item, None], beat: float) -> AsyncGenerator[list[Item], None]:
    """What `source` yields, gathered into one list per `beat` seconds; an empty list when nothing came.

    The regular beat is what lets the server notice a closed tab even before the first token. Closing this
    generator, or cancelling the task that reads it, closes `source`.
    """
    waiting: asyncio.Future[Item] = asyncio.ensure_future(anext(source))
    clock = asyncio.get_running_loop().time
    try:
        while True:
            batch: list[Item] = []
            until = clock() + beat
            while (left := until - clock()) > 0:
                done, _ = await asyncio.wait({waiting}, timeout=left)
                if not done:
                    break
                try:
                    batch.append(waiting.result())
                except StopAsyncIteration:
                    if batch:
                        yield batch
                    return
                except BaseException:
                    if batch:
                        yield batch
                    raise
                waiting = asyncio.ensure_future(anext(source))
            yield batch
    finally:
        waiting.cancel()
        with contextlib.suppress(BaseException):
            await waiting
        await source.aclose()


def harmless(markdown: str) -> str:
    """Markdown of a model or a user in which tags are shown instead of taken as HTML, and pictures become links.

    Code spans and fences keep every character. A picture would be fetched by the browser without a click, which is a
    way to carry text of a document to another host; a link shows where it leads and waits.
    """
    out: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in markdown.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence:
            out.append(line)
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif mark:
            out.append(_harmless_prose("".join(prose)))
            prose.clear()
            out.append(line)
            fence = mark[1]
        else:
            prose.append(line)
    out.append(_harmless_prose("".join(prose)))
    return "".join(out)


def _harmless_prose(text: str) -> str:
    # A code span ends within its paragraph. Linear in the length of the text, which a model or a document chooses.
    return "".join(_harmless_paragraph(paragraph) for paragraph in _BLANK_LINES.split(text))


def _harmless_paragraph(text: str) -> str:
    runs = [(run.start(), run.end()) for run in re.finditer("`+", text)]
    closing: dict[int, list[tuple[int, int]]] = {}
    for start, end in reversed(runs):
        closing.setdefault(end - start, []).append((start, end))
    out: list[str] = []
    position = 0
    for start, end in runs:
        same_length = closing[end - start]
        while same_length and same_length[-1][0] <= start:
            same_length.pop()
        if start < position or not same_length:
            continue
        code_end = same_length[-1][1]
        out += [_without_tags(text[position:start]), text[start:code_end]]
        position = code_end
    out.append(_without_tags(text[position:]))
    return "".join(out)


def _without_tags(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("![", "&#33;[")
