"""Cuts text into the words that keyword search compares: Chinese by jieba, everything else at word boundaries.

Knows no store; the same text gives the same words when it is filed and when it is asked for.
"""

from __future__ import annotations

import importlib
import logging
import re
import unicodedata
import warnings
from functools import cache
from typing import Any

from rag.scripts import HAN

# Words of questions that say nothing about what is asked. They are filed all the same; ranking passes over them.
_STOP_WORDS = """
    a about an and are as at be been by can could did do does for from had has have he hello help her hi his how i in is
    it its many me much my of on or please she tell thank that the their them there these they thi this those to us was
    we were what when where which who whom whose why will with would you your
    什么 谁 哪 哪里 哪儿 哪个 哪些 哪种 多少 几 怎么 怎样 怎么样 如何 为什么 为何 何时 吗 呢 吧 的 了 是 在 和 与 有 被
    于 对 由 以 及 或 这 那 他 她 它 我 你 您 我们 你们 他们 请 请问 能 会 做 可以 一个 你好 谢谢 再见
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_RUNS = re.compile(rf"([{HAN}]+)|([^\W_{HAN}]+)")


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased, compatibility forms folded (full-width "Ａ" is "a"), English plurals cut.

    A run of Chinese gives its words and the shorter words inside them: 知识库 -> 知识, 知识库.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    found: list[str] = []
    for run in _RUNS.finditer(text):
        if run[1]:
            found.extend(_jieba().cut_for_search(run[1]))
        else:
            found.append(_stem(run[2]))
    return found


def _stem(word: str) -> str:
    """Harman's S-stemmer: takes the plural off an English word and leaves the rest alone, names included."""
    if len(word) > 3 and word.isascii() and word.endswith("s"):
        if word.endswith("ies") and word[-4] not in "ae":
            return word[:-3] + "y"
        if word.endswith("es") and word[-3] not in "aeo":
            return word[:-1]
        if word[-2] not in "us":
            return word[:-1]
    return word


@cache
def _jieba() -> Any:
    """One tokenizer per process, made when the first Chinese text comes: its dictionary costs a second and 100 MB."""
    with warnings.catch_warnings():  # jieba 0.42 asks for pkg_resources where it is there, which warns
        warnings.simplefilter("ignore")
        jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.WARNING)

    tokenizer = jieba.Tokenizer()
    # jieba would read a marshalled dictionary from the system's temp folder, where anybody may have put it.
    # Reading the dictionary itself takes no longer than it must, and happens once.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
