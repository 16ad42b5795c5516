"""Cuts text into the words that keyword search compares: Chinese by jieba, everything else at word boundaries.

Knows no store; the same text gives the same words when it is filed and when it is asked for.
"""

from __future__ import annotations

import importlib
import io
import logging
import re
import threading
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise
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

# What people say to a chat to be polite or to try it out. A document that is about such words does not answer them.
_SMALL_TALK = """
    hello there|hi there|hey|hiya|good morning|good afternoon|good evening|good night|good day|nice to meet you|bye bye|
    goodbye|bye|see you later|see you|have a nice day|thanks a lot|thanks|thank|thx|cheers|welcome|sorry|excuse|ok|okay|
    yes|no|yeah|yep|nope|sure|fine|great|cool|nice|wow|lol|well done|good job|how is it going|what is up|whats up|
    how are things|how are you doing|how are you today|how are you|im fine|how do you do|who are you|all right|alright|
    again|test|testing|ping|a lot|very much|so much|too|are you doing|you today|tell a joke|tell me a joke|another joke|
    sing a song|write me a poem|write a poem|
    早上好|早安|早|上午好|中午好|下午好|晚上好|晚安|大家好|嗨|哈喽|哈啰|喂|在吗|在不在|您好|你们好|好久不见|最近好吗|好吗|
    吃了吗|多谢|感谢|非常感谢|谢了|辛苦了|辛苦|不客气|没关系|对不起|抱歉|不好意思|好的|好|嗯|是的|对|行|没问题|明白了|知道了|
    再见|拜拜|回头见|明天见|测试|测试一下|厉害|真棒|太好了|哈哈|哈哈哈|呵呵|非常|很|
    讲个笑话|说个笑话|讲一个笑话|写一首诗|写首诗|唱首歌|唱一首歌|帮|帮忙|帮助|给|啊|呀|哦|啦|嘛|哈
"""
_POLITE = sorted(filter(None, re.split(r"[|\s]*[|\n]\s*", _SMALL_TALK.strip())), key=len, reverse=True)
_POLITE_HAN = re.compile("|".join(phrase for phrase in [*_POLITE, *STOP_WORDS] if not phrase.isascii()))
_POLITE_LATIN = re.compile(r"\b(?:" + "|".join(phrase for phrase in _POLITE if phrase.isascii()) + r")\b")

# Said by themselves these are small talk; where something is asked, it may be asked about them: "When is the test?"
_ASKED_ABOUT = frozenset(["fine", "ping", "test", "testing", "welcome", "测试", "测试一下"])
_MEANINGLESS = STOP_WORDS | _ASKED_ABOUT  # where nothing is asked
_ASKS = re.compile(
    r"\b(?:what|when|where|which|who|whose|whom|why|how)\b|什么|何时|哪|谁|怎|如何|为何|多少|几|"
    r"^\W*(?:is|are|was|were|do|does|did|can|could|will|has|have)\s+(?!(?:you|it|this|that|they|we)\b)"
)

_RUNS = re.compile(rf"([{HAN}]+)|([^\W_{HAN}]+)")

_MAKING = threading.Lock()


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased, compatibility forms folded (full-width "Ａ" is "a"), English plurals cut.

    A run of Chinese gives its words, the shorter words inside them, and its other pairs of characters, because the
    same name is not always cut into the same words: 知识库 -> 知识, 知识库, 识库.
    """
    found: list[str] = []
    for run in _RUNS.finditer(_folded(text)):
        if run[1]:
            cut = list(_jieba().cut_for_search(run[1]))
            found += [*cut, *_pairs(run[1], cut)]
        else:
            found.append(_stem(run[2]))
    return found


def question_words(text: str) -> list[str]:
    """The words of a question that tell what is asked, without those that every question has. Chinese pairs are taken
    only between such words: in 谁是国王 there is no 是国."""
    found: list[str] = []
    for run in _RUNS.finditer(_folded(text)):
        if run[1]:
            cut = [word for word in _jieba().cut_for_search(run[1]) if word not in STOP_WORDS]
            found += cut
            for asked, stretch in groupby(_jieba().cut(run[1]), lambda word: word not in STOP_WORDS):
                if asked:
                    found += _pairs("".join(stretch), cut)
        elif (word := _stem(run[2])) not in STOP_WORDS and run[2] not in STOP_WORDS:
            found.append(word)
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _pairs(run: str, but: Sequence[str]) -> list[str]:
    known = frozenset(but)
    return [pair for pair in map("".join, pairwise(run)) if pair not in known]


def is_small_talk(text: str) -> bool:
    """Whether `text` is a greeting, thanks or the like and nothing else, or says nothing at all: "Hi, how are you?"."""
    text = _without(_POLITE_LATIN, " ", _folded(text).replace("'", ""), _ASKED_ABOUT)
    kept = _ASKED_ABOUT if _ASKS.search(text) else frozenset()
    return all(
        not _without(_POLITE_HAN, "", run[1], kept)
        if run[1]
        else run[2] not in kept and not {run[2], _stem(run[2])}.isdisjoint(_MEANINGLESS)
        for run in _RUNS.finditer(text)
    )


def _without(polite: re.Pattern[str], filler: str, text: str, kept: frozenset[str]) -> str:
    return polite.sub(lambda said: said[0] if said[0] in kept else filler, text)


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


def _jieba() -> Any:
    """One tokenizer per process, also where two threads ask for the first time at once."""
    with _MAKING:  # `cache` alone would let both of them make one
        return _made_jieba()


@cache
def _made_jieba() -> Any:
    """Made when the first Chinese text comes: its dictionary costs a second and 100 MB."""
    with warnings.catch_warnings():  # jieba 0.42 asks for pkg_resources where it is there, which warns
        warnings.simplefilter("ignore")
        jieba = importlib.import_module("jieba")
    jieba.setLogLevel(logging.WARNING)

    tokenizer = jieba.Tokenizer()
    # jieba would read a marshalled dictionary from the system's temp folder, where anybody may have put it.
    # Reading the dictionary itself takes no longer than it must, and happens once.
    with tokenizer.get_dict_file() as file:
        # At once: reads between lines would let go of the interpreter so often and so briefly that no thread which
        # waits for it ever asks for its turn, and the event loop would stand still for half a second.
        lines = io.BytesIO(file.read())
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(lines)
    tokenizer.initialized = True
    return tokenizer
