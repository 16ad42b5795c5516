"""What happens to text before it may be stored: unwanted characters out, broken lines joined. Knows no formats."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby, pairwise

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
_CJK = re.compile(f"[{CJK}]")
_CJK_END = re.compile(f"[{CJK}“”‘’…—]$")
_CJK_START = re.compile(f"[{CJK}“”‘’…—]")
_ITEM = re.compile(
    r"(?:[-*+•·‣◦▪■●○–]|\(?\d{1,3}[.)、]|\(?[A-Za-z][.)]|[（(]?[一二三四五六七八九十]{1,3}[)）、]|第.{1,5}[章节節条條])\s*\S"
)
_SENTENCE_END = re.compile(r"[.!?:;。！？：；…][\"'”’」』)）\]]*$")
_HYPHENATED = re.compile(r"[^\W\d_][-\u2010]$")  # typeset documents have a hyphen of their own


def clean_text(text: str) -> str:
    """`text` in NFC with "\\n" line ends, without surrogates, control characters other than newline and tab, and
    invisible characters that change how it is shown. The result always encodes."""
    text = _SOFT_HYPHEN_AT_END.sub("", _LINE_ENDS.sub("\n", text))
    text = _UNWANTED.sub("", text)
    text = _LOOKALIKES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", text)


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
    current: list[str] = []
    for line in map(str.strip, lines):
        if line and current and _goes_on(current[-1], line, width):
            current.append(line)
            continue
        if current:
            # Between single lines, as of a table or an address, there was no blank line: there is none now.
            single = line and len(current) == 1 and (_ITEM.match(line) or not _SENTENCE_END.search(current[0]))
            done += [join_soft(current), "\n" if single else "\n\n"]
        current = [line] if line else []
    return "".join([*done, join_soft(current)]).strip()


def join_wrapped(text: str) -> str:
    """`text` with the paragraphs joined that a program or a typist has broken at a width; all else as it is.

    A break counts as made for the width where the next word would not have fitted. A block between blank lines is
    joined only when that holds for all of its breaks: so code, addresses, poems and tables keep their lines.
    """
    blocks = [list(block) for filled, block in groupby(text.split("\n"), lambda line: bool(line.strip())) if filled]
    lengths = sorted(_columns(line.strip()) for block in blocks for line in block[:-1])
    width = lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    if not 40 <= width <= 120:
        return text.strip()
    return "\n\n".join(_unwrap(block, width) for block in blocks)


def _unwrap(block: list[str], width: int) -> str:
    items: list[list[str]] = []
    for line in block:
        if items and not _ITEM.match(line.strip()):
            items[-1].append(line)
        else:
            items.append([line])
    breaks = [pair for item in items for pair in pairwise(item)]
    if not all(_is_full(line.strip(), following.strip(), width) for line, following in breaks):
        return "\n".join(line.rstrip() for line in block)
    return "\n".join(join_soft(item) for item in items)


def _is_full(line: str, following: str, width: int) -> bool:
    """Whether `following` begins with what would have made `line` longer than `width`."""
    if _HYPHENATED.search(line[-2:]):
        return True
    word = following[:2] if _CJK_START.match(following) else following.split(" ", 1)[0]
    return _columns(line) + 1 + _columns(word) >= width


def join_soft(lines: Sequence[str]) -> str:
    """One paragraph from lines that are known to belong together; Chinese lines are joined without a space."""
    parts: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        if not parts:
            parts.append(line)
        elif _HYPHENATED.search(parts[-1][-2:]) and line[0].islower():
            parts[-1:] = [parts[-1][:-1], line]
        elif _CJK_END.search(parts[-1][-1:]) and _CJK_START.match(line):
            parts.append(line)
        else:
            parts += [" ", line]
    return "".join(parts)


def _width(lines: Sequence[str]) -> int:
    """Where most of the lines end: 0 for lines that are not broken at a width."""
    lengths = sorted(_columns(line.strip()) for line in lines if line.strip())
    if len(lengths) < 2:
        return 0
    width = lengths[int(0.8 * (len(lengths) - 1))]
    return width if 30 <= width <= 160 else 0


def _columns(line: str) -> int:
    return len(line) if line.isascii() else len(line) + len(_CJK.findall(line))


def _goes_on(line: str, start: str, width: int) -> bool:
    """Whether the line `start` is the rest of the paragraph of `line`."""
    if not width or _ITEM.match(start):
        return False
    if _HYPHENATED.search(line[-2:]) and start[0].islower():
        return True
    if _columns(line) < 0.5 * width:
        return False
    full = _columns(line) >= 0.85 * width
    return full or (not _SENTENCE_END.search(line[-8:]) and (start[0].islower() or bool(_CJK_START.match(start))))
