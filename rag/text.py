"""What happens to text before it may be stored: unwanted characters out, broken lines joined. Knows no formats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import reduce

# Surrogates and control characters break UTF-8, JSON, databases and tokenizers. The invisible ones make text look
# different from what it is: bidi controls, marks of the byte order, tag characters, soft hyphens.
_LINE_ENDS = re.compile("\r\n?|[\v\f\u2028\u2029]")
_SOFT_HYPHEN_AT_END = re.compile("\u00ad[ \t]*\n[ \t]*")
_UNWANTED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# Ligatures, and the radicals that PDF fonts put in the place of the characters they look like.
_LOOKALIKES = re.compile("[\u2e80-\u2fd5\ufb00-\ufb06]")
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff]")

CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff65\U00020000-\U0003134f"
_CJK_END = re.compile(f"[{CJK}“”‘’…—]$")
_CJK_START = re.compile(f"[{CJK}“”‘’…—]")
_ITEM = re.compile(
    r"(?:[-*+•·‣◦▪■●○–]|\(?\d{1,3}[.)、]|\(?[A-Za-z][.)]|[（(]?[一二三四五六七八九十]{1,3}[)）、]|第.{1,5}[章节節条條])\s*\S"
)
_SENTENCE_END = re.compile(r"[.!?:;。！？：；…][\"'”’」』)）\]]*$")
_HYPHENATED = re.compile(r"[^\W\d_]-$")


def clean_text(text: str) -> str:
    """`text` with "\\n" line ends, without surrogates, control characters other than newline and tab, and invisible
    characters that change how it is shown. The result always encodes."""
    text = _SOFT_HYPHEN_AT_END.sub("", _LINE_ENDS.sub("\n", text))
    text = _UNWANTED.sub("", text)
    return _LOOKALIKES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def is_readable(text: str) -> bool:
    """Whether `text` has a letter or digit, and at most 30 % of it are characters that stand for unknown ones."""
    visible = len(text) - sum(map(str.isspace, text))
    unknown = len(_UNREADABLE.findall(text))
    return unknown <= 0.3 * visible and any(map(str.isalnum, text))


def join_lines(lines: Sequence[str]) -> str:
    """Paragraphs, a blank line between them, from lines that were broken to fit a width.

    A line stays on its own when it is clearly shorter than the others, as headings and rows of tables are, and a list
    item begins a new one. Nothing is joined where lines are too long to have been broken by hand.
    """
    width = _width(lines)
    done: list[str] = []
    current = last = ""
    for raw in lines:
        line = raw.strip()
        if not current:
            current = line
        elif line and _goes_on(last, line, width):
            current = _join(current, line)
        else:
            # Between single lines, as of a table or an address, there was no blank line: there is none now.
            single = line and current == last and (_ITEM.match(line) or not _SENTENCE_END.search(last))
            done += [current, "\n" if single else "\n\n"]
            current = line
        last = line
    return "".join([*done, current]).strip()


def join_soft(lines: Sequence[str]) -> str:
    """One paragraph from lines that are known to belong together; Chinese lines are joined without a space."""
    return reduce(_join, (line.strip() for line in lines if line.strip()), "")


def _width(lines: Sequence[str]) -> int:
    """Where most of the lines end: 0 for lines that are not broken at a width."""
    lengths = sorted(_columns(line.strip()) for line in lines if line.strip())
    if len(lengths) < 2:
        return 0
    width = lengths[int(0.8 * (len(lengths) - 1))]
    return width if 30 <= width <= 160 else 0


def _columns(line: str) -> int:
    return len(line) + len(re.findall(f"[{CJK}]", line))


def _goes_on(line: str, start: str, width: int) -> bool:
    """Whether the line `start` is the rest of the paragraph of `line`."""
    if not width or _ITEM.match(start):
        return False
    if _HYPHENATED.search(line) and start[0].islower():
        return True
    if _columns(line) < 0.5 * width:
        return False
    full = _columns(line) >= 0.85 * width
    return full or (not _SENTENCE_END.search(line) and (start[0].islower() or bool(_CJK_START.match(start))))


def _join(line: str, following: str) -> str:
    if not line:
        return following
    if _HYPHENATED.search(line) and following[0].islower():
        return line[:-1] + following
    if _CJK_END.search(line) and _CJK_START.match(following):
        return line + following
    return f"{line} {following}"
