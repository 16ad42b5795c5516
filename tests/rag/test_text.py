"""Text at the border of the store: cleaned, decoded, and its lines joined."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import UnreadableFile
from rag.readers import Limits
from rag.readers.decoding import decode, read_text
from rag.text import clean_text, is_readable, join_lines, join_soft, join_wrapped

SIMPLIFIED = "这个项目的运行需要特定的数据目录和配置文件。执行下列命令，可以生成默认的配置，您可以随时修改它们。\n" * 3
TRADITIONAL = "這個專案的執行需要特定的資料目錄和設定檔。執行下列命令，可以產生預設的設定，您可以隨時修改它們。\n" * 3
ENGLISH = "The lighthouse was built in 1871.\nIts lamp burned rape oil.\n"
anything = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(anything)
def test_clean_text_goes_through_utf8_json_and_a_database(text: str) -> None:
    clean = clean_text(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert json.loads(json.dumps(clean)) == clean
    with sqlite3.connect(":memory:") as database:
        assert database.execute("select ?", (clean,)).fetchone() == (clean,)
    database.close()


@given(anything)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a\x00b\x07c\x9f", "abc"),
        ("tab\tand\r\nline\rends\u2028here", "tab\tand\nline\nends\nhere"),
        ("\ufeffmark", "mark"),
        ("safe\u202egnp.exe\u2066", "safegnp.exe"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("hid\U000e0041den", "hidden"),
        ("co\u00adop\u00ad\n  erate", "cooperate"),
        ("\ufb01le ⽤⽇", "file 用日"),
        ("u\u0308ber cafe\u0301 Ａ１ ①", "über café Ａ１ ①"),
        ("面朝大海 — “春暖花开” 👩‍🚀", "面朝大海 — “春暖花开” 👩‍🚀"),
    ],
)
def test_what_is_taken_out(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("word", True),
        ("字", True),
        ("", False),
        (" \n", False),
        ("...", False),
        ("ab\ufffd", False),
        ("abc\ufffd", True),
    ],
)
def test_text_is_readable_with_few_unknown_characters(text: str, readable: bool) -> None:
    assert is_readable(text) is readable


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (ENGLISH, "ascii"),
        (SIMPLIFIED, "utf-8"),
        ("Größe, naïve, Ελλάδα, Москва", "utf-8"),
        (SIMPLIFIED, "utf-8-sig"),
        (ENGLISH, "utf-16"),
        (SIMPLIFIED, "utf-16"),
        (ENGLISH, "utf-32"),
        (ENGLISH, "utf-16-le"),
        (ENGLISH, "utf-16-be"),
        (SIMPLIFIED, "utf-16-le"),
        (SIMPLIFIED, "utf-16-be"),
        (TRADITIONAL, "utf-16-le"),
        (SIMPLIFIED, "gb2312"),
        (SIMPLIFIED, "gbk"),
        (SIMPLIFIED, "gb18030"),
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "utf-8"),
        ("公司年假制度：每年十五天。", "gb18030"),
        ("公司年假制度：每年十五天。", "big5"),
    ],
)
def test_the_encoding_is_found(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5"])
def test_one_bad_byte_is_tolerated(encoding: str) -> None:
    text = TRADITIONAL if encoding == "big5" else SIMPLIFIED
    data = bytearray(text.encode(encoding))
    data[60] = 0xFF
    # The byte after it may be taken along; everything else is there.
    assert decode(bytes(data))[-100:] == text[-100:]


def test_a_text_that_was_cut_within_a_character_is_read() -> None:
    assert decode(SIMPLIFIED.encode()[:-2]).startswith(SIMPLIFIED[:-2])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Straße, Größe, Übung, schön, für, Äpfel, Öl, müssen, können, würden", "latin-1"),
        ("등대는 화강암으로 지어졌다. 등대지기는 매일 아침 날씨를 기록하였다. " * 4, "euc-kr"),
        ("灯台は灰色の花崗岩で建てられました。灯台守は毎朝、天気を記録しました。" * 4, "shift-jis"),
        ("灯台は灰色の花崗岩で建てられました。灯台守は毎朝、天気を記録しました。" * 4, "euc-jp"),
        ("Маяк был построен из серого гранита. Смотритель записывал погоду. " * 4, "cp1251"),
    ],
)
def test_what_would_only_be_a_guess_is_refused(text: str, encoding: str) -> None:
    with pytest.raises(UnreadableFile, match="UTF-8") as caught:
        decode(text.encode(encoding))
    assert caught.value.reason == "damaged"


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableFile):
        clean_text(decode(data)).encode()


def test_more_text_than_allowed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 100)
    with pytest.raises(UnreadableFile, match="500 characters") as caught:
        read_text(file, Limits(characters=499))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("hyphen", ["-", "\u2010"])
def test_lines_broken_at_a_width_become_paragraphs(hyphen: str) -> None:
    lines = [
        "The lighthouse at Cape Arlen was built in 1871 from",
        f"grey granite by masons who came from the neigh{hyphen}",
        "bouring valley and stayed.",
        "",
        "Nobody has lived there since the lamp was",
        "electrified.",
    ]
    assert join_lines(lines) == (
        "The lighthouse at Cape Arlen was built in 1871 from grey granite by masons who came from the neighbouring "
        "valley and stayed.\n\nNobody has lived there since the lamp was electrified."
    )


def test_chinese_lines_are_joined_without_a_space() -> None:
    lines = ["星河公司成立于二〇〇三年，总部设在杭州。公司", "的主要产品是温度传感器，也生产压力传感器和仪", "表。"]
    assert join_lines(lines) == "".join(lines)


def test_list_items_and_rows_stay_on_lines_of_their_own() -> None:
    lines = ["What to bring:", "- a compass with a paper dial, made in Bergen", "- a lamp", "Name Price", "Compass 12"]
    assert join_lines(lines).split("\n") == lines


def test_lines_too_long_to_be_broken_by_hand_are_paragraphs() -> None:
    long = "word " * 60
    assert join_lines([long, long]).count("\n") == 1


def test_soft_breaks_are_joined_whatever_their_width() -> None:
    assert join_soft(["a", "b ", "", "中", "文"]) == "a b 中文"
    assert join_soft([]) == ""


@pytest.mark.parametrize("width", [60, 72, 80])
def test_text_wrapped_at_a_width_is_unwrapped(width: int) -> None:
    prose = "The lighthouse at Cape Arlen was built in 1871 from grey granite, by masons from the valley. " * 3
    paragraphs = [prose.strip(), "Nobody has lived there since the lamp was electrified. " + prose.strip()]
    wrapped = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs)
    assert join_wrapped(wrapped) == "\n\n".join(paragraphs)


def test_chinese_wrapped_at_a_width_is_unwrapped_without_spaces() -> None:
    prose = "星河公司成立于二〇〇三年，总部设在杭州。公司的主要产品是温度传感器，也生产压力传感器。" * 3
    wrapped = "\n".join(prose[start : start + 35] for start in range(0, len(prose), 35))
    assert join_wrapped(wrapped) == prose


@pytest.mark.parametrize(
    "text",
    [
        "# comment on what comes\nmake run\nmake test  # takes a while, go and have a coffee until it is done\n```",
        "Mara Venn\nLighthouse Road 1\nCape Arlen",
        "2026-11-01 12:00 started and it took rather long to come up\n12:01 stopped\n12:02 started once more",
        "id,name,town\n1,Mara Venn who keeps the lighthouse at the cape,Arlen\n2,Per,Bergen",
        "    indented()\n    code()",
    ],
    ids=["code", "address", "log", "csv", "indented"],
)
def test_lines_that_were_not_broken_at_a_width_are_kept(text: str) -> None:
    assert join_wrapped(text).split("\n") == [line.rstrip() for line in text.strip().split("\n")]


@pytest.mark.parametrize("join", [join_wrapped, lambda text: join_lines(text.split("\n"))])
@pytest.mark.parametrize("text", ["word " * 15 + "\n", "\n \t", "a\n"], ids=["wrapped", "blank", "short"])
def test_joining_takes_time_in_proportion_to_the_text(join: Callable[[str], str], text: str) -> None:
    def seconds(lines: int) -> float:
        started = time.process_time()
        join(text * lines)
        return time.process_time() - started

    assert seconds(40_000) < 40 * max(seconds(4_000), 0.01)


@given(st.lists(st.text(max_size=80), max_size=12))
def test_unwrapping_loses_nothing_but_white_space_and_hyphens(lines: list[str]) -> None:
    def letters(text: str) -> str:
        return "".join(text.replace("-", "").replace("\u2010", "").split())

    text = "\n".join(lines)
    assert letters(join_wrapped(text)) == letters(text)


@given(st.lists(st.text(max_size=80), max_size=12))
def test_joining_loses_nothing_but_white_space_and_hyphens(lines: list[str]) -> None:
    def letters(text: str) -> str:
        return "".join(text.replace("-", "").replace("\u2010", "").split())

    assert letters(join_lines(lines)) == letters("\n".join(lines))
