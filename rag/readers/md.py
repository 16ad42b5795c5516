"""Reads Markdown: one section for each heading, with the path of headings above it. Code blocks stay as they are."""

from __future__ import annotations

import re
from pathlib import Path

from rag.readers import Limits, Progress, Reading, Section
from rag.readers.decoding import read_text
from rag.readers.outline import Outline
from rag.text import join_soft

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
    """Raises UnreadableFile: damaged (no encoding fits), too_large."""
    return Reading(_sections(read_text(path, limits).split("\n")))


def _sections(lines: list[str]) -> list[Section]:
    outline = Outline()
    prose: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if fence := _FENCE.match(line):
            end = _end_of_code(lines, at, fence[1])
            outline.add(_paragraphs(prose))
            outline.add("\n".join(lines[at:end]))
            prose, at = [], end
        elif heading := _heading(line, lines[at + 1] if at + 1 < len(lines) else ""):
            level, title, length = heading
            outline.add(_paragraphs(prose))
            outline.heading(level, title)
            prose, at = [], at + length
        else:
            prose.append(line)
            at += 1
    outline.add(_paragraphs(prose))
    return outline.sections()


def _heading(line: str, following: str) -> tuple[int, str, int] | None:
    """(level, title, lines it takes) where a heading begins with `line`."""
    if atx := _ATX.match(line):
        return len(atx[1]), _plain(atx[2] or ""), 1
    underline = _SETEXT.match(following)
    if underline and line.strip() and "|" not in line and not _OWN_LINE.match(line) and not _SETEXT.match(line):
        return 1 if "=" in underline[1] else 2, _plain(line), 2
    return None


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
