"""Text leaves the engine whole: no half characters, no piece of a stop text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from backends.engines.transformers_server.text import TextStream
from tests import checkpoints


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoints.untrained("Qwen2ForCausalLM"))


def streamed(tokenizer: Any, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(tokenizer, stop)
    pieces = [stream.feed([token]) for token in ids]
    return [*pieces, "" if stream.stopped else stream.finish()]


def test_a_character_of_several_tokens_comes_in_one_piece(tokenizer: Any) -> None:
    text = "绿湖深九十一米，很美。🐝 ok"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)  # so some characters are in pieces
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_control_tokens_are_no_text(tokenizer: Any) -> None:
    ids = tokenizer.encode("Hello <|im_end|>")
    assert "".join(streamed(tokenizer, ids)) == "Hello "


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two th"), "one "),
        ("one two three", ("e t",), "on"),
        ("one two three", ("four",), "one two three"),
        ("ends with a beginning of st", ("stop",), "ends with a beginning of st"),
        ("灯塔里没有人。", ("没有",), "灯塔里"),
        ("stop", ("stop",), ""),
        ("aaab", ("aab",), "a"),
    ],
)
def test_a_stop_text_cuts_exactly_and_never_shows_a_piece(
    tokenizer: Any, text: str, stop: tuple[str, ...], left: str
) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(text), stop)
    assert "".join(pieces) == left
    shown = ""
    for piece in pieces:
        shown += piece
        assert left.startswith(shown)


def test_any_ids_at_all_give_text_without_half_characters(tokenizer: Any) -> None:
    chance = random.Random(7)
    for _ in range(200):
        ids = [chance.randrange(len(tokenizer)) for _ in range(40)]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        text = "".join(streamed(tokenizer, ids))
        # What is no character at all stays the sign for that, except at the very end: more could have followed.
        assert whole.startswith(text)
        assert set(whole[len(text) :]) <= {"\ufffd"}
