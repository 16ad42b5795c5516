from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rag.words import _jieba, _made_jieba, is_small_talk, question_words, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Panthers' defence gave up 308 points.", ["the", "panther", "defence", "gave", "up", "308", "point"]),
        ("cities, class, bus, news, is", ["city", "class", "bus", "new", "is"]),
        ("ＡＢＣ１２３", ["abc123"]),
        ("snake_case", ["snake", "case"]),
        ("Straße café", ["straße", "café"]),
        ("", []),
        ("!?… —", []),
    ],
)
def test_text_is_cut_at_word_boundaries_and_folded(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_threads_that_start_at_once_share_one_dictionary() -> None:
    _made_jieba.cache_clear()
    together = threading.Barrier(4)

    def tokenizer(_: int) -> Any:
        together.wait(60)
        return _jieba()

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(tokenizer, range(4)))
    assert all(one is made[0] for one in made)


def test_chinese_is_cut_into_words_and_the_words_inside_them() -> None:
    assert {"知识", "知识库", "文件"} <= set(words("知识库里的文件"))


def test_a_name_is_found_by_its_pairs_however_it_is_cut() -> None:
    assert {"特斯", "斯拉"} <= set(words("尼古拉·特斯拉发明了交流电机"))


def test_a_question_is_left_with_the_words_that_tell_what_is_asked() -> None:
    assert question_words("What is the warranty of the pumps?") == ["warranty", "pump"]
    assert set(question_words("法国的国王是谁？")) >= {"法国", "国王"}
    assert not set(question_words("谁是国王？")) & {"谁", "是", "谁是", "是国"}
    assert question_words("who are you?") == question_words("你是谁？") == []


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "Hi, how are you today?",
        "Thank you very much!",
        "What's up?",
        "ok",
        "👍",
        "...",
        "你好！",
        "早上好",
        "谢谢",
        "再见",
        "你能做什么？",
        "test",
        "this is a test",
        "testing, testing",
        "that's fine",
        "How are you? I'm fine, thanks",
        "is this a test?",
        "测试一下",
    ],
)
def test_small_talk_is_known(text: str) -> None:
    assert is_small_talk(text)


@pytest.mark.parametrize(
    "text",
    [
        "Hello, how do I descale the kettle?",
        "How do I say thanks in French?",
        "no smoking rules",
        "36",
        "你好，保修期多久？",
        "好评率是多少",
        "谢谢的英文是什么？",
        "When is the test?",
        "How much is the fine?",
        "How do I ping it?",
        "Is there a fine?",
        "Who is welcome?",
        "怎么测试？",
        "什么时候测试",
        "早期症状",
        "こんにちは",
        "сколько стоит",
    ],
)
def test_a_question_is_not_small_talk(text: str) -> None:
    assert not is_small_talk(text)


def test_chinese_and_english_in_one_sentence() -> None:
    found = words("用GPU运行Qwen3模型")
    assert "gpu" in found
    assert "qwen3" in found
    assert "模型" in found


def test_nothing_is_read_from_or_written_to_the_temporary_folder(tmp_path: Path) -> None:
    # jieba keeps a marshalled dictionary in the system's temp folder, where anybody could put one.
    (tmp_path / "jieba.cache").write_bytes(b"not a dictionary")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from rag.words import words; print(words('知识库'))"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "知识库" in done.stdout
    assert done.stderr == ""
    assert [file.name for file in tmp_path.iterdir()] == ["jieba.cache"]
    assert (tmp_path / "jieba.cache").read_bytes() == b"not a dictionary"
