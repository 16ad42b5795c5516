"""Finds out the encoding of text that does not say it. Guesses only what reads like text; the rest is refused."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from rag.errors import UnreadableFile
from rag.readers import Limits, too_much_text
from rag.text import clean_text

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 200_000  # bytes that a guess looks at

# Of both Chinese codes, the part with the characters of daily life comes first: lead byte up to this.
_CHINESE = {"gb18030": ("gb2312", 0xD7), "big5": ("big5", 0xC6)}
_FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家"
    "这個們來為國說時會對於著過發後裡種開學現經麼無樣動數據請與及或等本文件使系统項目项"
)
_HAN = re.compile("[\u4e00-\u9fff]")
_DAMAGE = re.compile("\ufffd+")  # a bad byte takes its neighbours along
_KANA = re.compile("[\u3040-\u30ff]")


def read_text(path: Path, limits: Limits) -> str:
    """The clean text of a file that is nothing but text. Raises UnreadableFile: damaged, too_large."""
    text = decode(path.read_bytes())
    if len(text) > limits.characters:  # before any work is done on it
        raise too_much_text(len(text), limits)
    return clean_text(text)


def decode(data: bytes) -> str:
    """The text of `data`; characters that are not wanted in a store may still be in it. Raises UnreadableFile."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    encoding = _utf16_by_nul(data) or _strict_utf8(data) or _almost(data, "utf-8") or _plausible(data)
    if not encoding:
        raise UnreadableFile(
            "damaged", "The encoding of this text could not be recognised: save it as UTF-8 and upload it again."
        )
    return data.decode(encoding, "replace")


def _utf16_by_nul(data: bytes) -> str:
    """Latin text in UTF-16 has a NUL in nearly every second place, and hardly any in the others."""
    sample = data[:_SAMPLE]
    half = len(sample) // 2
    if half < 2:
        return ""
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else ""


def _strict_utf8(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "utf-8"


def _almost(data: bytes, encoding: str) -> str:
    """The encoding, where one place at most does not fit: a damaged byte, or an end in the middle of a character."""
    text = data.decode(encoding, "replace")
    return encoding if len(_DAMAGE.findall(text)) <= 1 and len(text) > 20 else ""


def _plausible(data: bytes) -> str:
    """The encoding in which the text reads most like Chinese; "" where it does in none."""
    candidates = ["gb18030", "big5"] + (["utf-16-le", "utf-16-be"] if len(data) % 2 == 0 else [])
    score, encoding = max((_likeness(data, candidate), candidate) for candidate in candidates)
    return encoding if score >= 0.8 else ""


def _likeness(data: bytes, encoding: str) -> float:
    """0..1: how many of the characters that are not ASCII are common ones of Chinese text."""
    text = data[:_SAMPLE].decode(encoding, "replace")
    # One byte may be damaged, and the sample may end within a character.
    if len(_DAMAGE.findall(text)) > 2:
        return 0.0
    foreign = [char for char in text if char > "\x7f" and char != "\ufffd"]
    han = _HAN.findall(text)
    if not foreign or len(_KANA.findall(text)) > 0.1 * len(foreign):
        return 0.0
    # Korean read as GB2312 gives common characters only, but not the words without which nothing can be said.
    if len(han) > 50 and sum(char in _FREQUENT for char in han) < 0.06 * len(han):
        return 0.0
    codes = [_CHINESE[encoding]] if encoding in _CHINESE else list(_CHINESE.values())
    return max(sum(_is_common(char, *code) for char in foreign) for code in codes) / len(foreign)


def _is_common(char: str, code: str, last_lead: int) -> bool:
    try:
        return char.encode(code)[0] <= last_lead
    except UnicodeEncodeError:
        return False
