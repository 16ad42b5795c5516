"""Reads Markdown: one section for each heading, with the path of headings above it. Code blocks stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rag.readers import Limits, Progress, Reading, Section
from rag.readers.decoding import decode
from rag.text import clean_text, join_soft

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_ROW = re.compile(r"\s*\|(.*)\|\s*$")
_RULE_OF_TABLE = re.compile(r"\s*\|?[\s:|-]*-[\s:|-]*\|?\s*$")
_OWN_LINE = re.compile(r"\s*(?:[-*+>]\s|\d{1,9}[.)]\s|<|\[[^\]]+\]:)|.*(?: {2}|\\)$")
# A picture is its description; its address would only send a reader's browser elsewhere.
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_MARKS = re.compile(r"(\*\*|__|`|(?<!\w)[*_]|[*_](?!\w))")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile where the encoding cannot be recognised."""
    text = clean_text(decode(path.read_bytes()))
    return Reading([section for section in _sections(text.split("\n")) if section.text])


def _sections(lines: list[str]) -> Iterator[Section]:
    path: list[tuple[int, str]] = []
    blocks: list[str] = []  # paragraphs, rows, code: what is to be kept apart
    prose: list[str] = []

    def heading() -> str:
        return " > ".join(title for _, title in path)

    def end_prose() -> None:
        if prose:
            blocks.append(_paragraphs(prose))
            prose.clear()

    def section() -> Section:
        end_prose()
        made = Section("\n\n".join(block for block in blocks if block), heading=heading())
        blocks.clear()
        return made

    at = 0
    while at < len(lines):
        line = lines[at]
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if fence := _FENCE.match(line):
            end = _end_of_code(lines, at, fence[1])
            end_prose()
            blocks.append("\n".join(lines[at:end]))
            at = end
            continue
        atx = _ATX.match(line)
        setext = _SETEXT.match(following) if line.strip() and not _OWN_LINE.match(line) and "|" not in line else None
        if atx or setext:
            yield section()
            level = len(atx[1]) if atx else (1 if setext and "=" in setext[1] else 2)
            title = _plain((atx[2] or "") if atx else line)
            while path and path[-1][0] >= level:
                path.pop()
            if title:
                path.append((level, title))
                blocks.append(title)
            at += 1 if atx else 2
            continue
        prose.append(line)
        at += 1
    yield section()


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
    """Soft line breaks joined; lists, quotations, rows of tables, indented code and HTML keep their lines."""
    done: list[str] = []
    soft: list[str] = []

    def end_soft() -> None:
        if soft:
            done.append(join_soft(soft))
            soft.clear()

    for raw in lines:
        line = _PICTURE.sub(r"\1", raw)
        if row := _ROW.match(line):
            end_soft()
            if not _RULE_OF_TABLE.match(line):
                done.append(" | ".join(cell.strip() for cell in row[1].split("|")))
        elif not line.strip():
            end_soft()
            done.append("")
        elif _OWN_LINE.match(line) or line.startswith(("    ", "\t")):
            end_soft()
            done.append(line.rstrip())
        else:
            soft.append(line)
    end_soft()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(done)).strip("\n")
