"""Every string is there in both languages, and a browser gets the one it prefers."""

from __future__ import annotations

import re
from string import Formatter

import pytest

from webui.texts import CHINESE, ENGLISH, Both, Texts, preferred

STRINGS = {name: value for name, value in vars(Texts).items() if isinstance(value, Both)}


def _placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field}


@pytest.mark.parametrize("name", STRINGS)
def test_a_string_says_the_same_in_both_languages(name: str) -> None:
    english, chinese = getattr(ENGLISH, name), getattr(CHINESE, name)
    assert english
    assert chinese
    assert _placeholders(english) == _placeholders(chinese)
    assert not re.search("[\u4e00-\u9fff]", english) or name == "other_language"


def test_chinese_sentences_have_chinese_punctuation() -> None:
    wrong = {name for name in STRINGS if re.search("[\u4e00-\u9fff][,:;?!]", getattr(CHINESE, name))}
    assert wrong == set()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("zh", "zh"),
        ("zh-Hant-TW;q=0.5,de", "zh"),
        ("de,fr;q=0.5", "en"),
        ("en;q=0.1,ZH-cn;q=0.9", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=wrong,;;;,en", "en"),
        ("*", "en"),
    ],
)
def test_the_browser_is_asked_for_its_language(header: str, language: str) -> None:
    assert preferred(header) == language


def test_an_error_of_the_tree_is_named_in_chinese_and_keeps_its_details() -> None:
    sentence = "temperature must be between 0.0 and 5.0; it was 9.0."
    assert ENGLISH.error("invalid_request", sentence) == sentence
    assert CHINESE.error("invalid_request", sentence) == f"请求有误\uff1a{sentence}"
    assert sentence in CHINESE.error("a code of the future", sentence)


def test_every_reason_of_an_unreadable_file_has_its_chinese_sentence() -> None:
    reasons = ["encrypted", "damaged", "no_text", "unsupported", "unsafe", "too_slow", "too_large", "empty"]
    reasons += ["storage_full", "internal", "cancelled"]
    assert all(CHINESE.reason(reason) for reason in reasons)
    assert not any(ENGLISH.reason(reason) for reason in reasons)  # the English page shows the error itself
