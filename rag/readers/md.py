"""Reads Markdown: one section for each heading, with the path of headings above it. Code blocks stay as they are."""

from __future__ import annotations

import re
from pathlib import Path

from rag.readers import Limits, Progress, Reading, Section
from rag.readers.decoding import read_text
from rag.readers.outline import Outline
from rag.readers.table import table_lines
from rag.text import join_soft

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_UNDER_HEADER = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")  # of a table
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_FRONT_MATTER = re.compile(r"---\n((?:(?:[\w-]+:|[ \t]|-[ \t]|#).*\n|\n){1,100})(?:---|\.\.\.)[ \t]*(?:\n|$)")
_OWN_LINE = re.compile(r"\s*(?:[-*+>]\s|\d{1,9}[.)]\s|<|\[[^\]]+\]:)|.*(?: {2}|\\)$")
# A picture is its description; its address would only send a reader's browser elsewhere.
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_MARKS = re.compile(r"(\*\*|__|`|(?<!\w)[*_]|[*_](?!\w))")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile: damaged (no encoding fits), too_large."""
    return Reading(_sections(read_text(path, limits)))


def _sections(text: str) -> list[Section]:
    outline = Outline()
    if front := _FRONT_MATTER.match(text):
        outline.add(front[1].strip())
        text = text[front.end() :]
    lines = text.split("\n")
    prose: list[str] = []
    at = 0
    while at < len(lines):
        if fence := _FENCE.match(lines[at]):
            end = _end_of_code(lines, at, fence[1])
            outline.add(_paragraphs(prose))
            outline.add("\n".join(lines[at:end]))
        elif (end := _end_of_table(lines, at)) > at:
            outline.add(_paragraphs(prose))
            outline.add(table_lines([_cells(lines[at]), *map(_cells, lines[at + 2 : end])], has_header=True))
        elif heading := _heading(prose[-1] if prose else "", *lines[at : at + 2]):
            level, title, length = heading
            outline.add(_paragraphs(prose))
            outline.heading(level, title)
            end = at + length
        else:
            prose.append(lines[at])
            at += 1
            continue
        prose, at = [], end
    outline.add(_paragraphs(prose))
    return outline.sections()


def _heading(before: str, line: str, following: str = "") -> tuple[int, str, int] | None:
    """(level, title, lines it takes) where a heading begins with `line`."""
    if atx := _ATX.match(line):
        title = (atx[2] or "").rstrip()
        text = title.rstrip("#")
        if not text or text[-1].isspace():  # signs at the end close the heading
            title = text
        return len(atx[1]), _plain(title), 1
    if before.strip() or not line.strip() or _OWN_LINE.match(line) or _SETEXT.match(line):
        return None  # under a paragraph of several lines, a rule is a rule
    underline = _SETEXT.match(following)
    return (1 if "=" in underline[1] else 2, _plain(line), 2) if underline else None


def _end_of_table(lines: list[str], start: int) -> int:
    """The index after the last row of the table that begins at `start`; `start` itself where none does."""
    if "|" not in lines[start] or start + 1 == len(lines) or not _UNDER_HEADER.match(lines[start + 1]):
        return start
    if len(_cells(lines[start])) != len(_cells(lines[start + 1])):
        return start
    end = start + 2
    while end < len(lines) and "|" in lines[end]:
        end += 1
    return end


def _cells(line: str) -> list[str]:
    line = _PICTURE.sub(r"\1", line).strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [cell.strip().replace("\\|", "|") for cell in _CELL_BORDER.split(line)]


def _end_of_code(lines: list[str], start: int, fence: str) -> int:
    """The index after the line that closes the block, or after the last line."""
    closing = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    for at in range(start + 1, len(lines)):
        if closing.match(lines[at]):
            return at + 1
    return len(lines)


def _plain(title: str) -> str:
    return _MARKS.sub("", _LINK.sub(r"\1", _PICTURE.sub(r"\1", title))).strip()


def _paragraphs(lines: list[str]) -> str:
    """Soft line breaks joined; lists, quotations, indented code and HTML keep their lines."""
    done: list[str] = []
    soft: list[str] = []

    def end_soft() -> None:
        if soft:
            done.append(join_soft(soft))
            soft.clear()

    for raw in lines:
        line = _PICTURE.sub(r"\1", raw)
        if not line.strip():
            end_soft()
            done.append("")
        elif _OWN_LINE.match(line) or line.startswith(("    ", "\t")):
            end_soft()
            done.append(line.rstrip())
        else:
            soft.append(line)
    end_soft()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(done)).strip("\n")
