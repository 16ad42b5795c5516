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
    return [*pieces, stream.finish()]


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


def test_any_ids_at_all_give_their_characters(tokenizer: Any) -> None:
    chance = random.Random(7)
    for _ in range(200):
        ids = [chance.randrange(len(tokenizer)) for _ in range(40)]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        text = "".join(streamed(tokenizer, ids))
        assert text in (whole, whole.removesuffix("\ufffd"))
        stream = TextStream(tokenizer)
        assert stream.feed(ids) + stream.finish(half=True) == whole


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    """A tokenizer as Llama 2 has one: spaces are ▁, and what is no word is spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁", "cat", "湖", "s", "▁▁"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def spelled(tokenizer: Any, *words: str) -> list[int]:
    return [int(number) for number in tokenizer.convert_tokens_to_ids(list(words))]


def test_words_keep_their_spaces_and_bytes_become_characters(byte_fallback: Any) -> None:
    bee = [f"<0x{byte:02X}>" for byte in "🐝绿".encode()]
    ids = spelled(byte_fallback, "▁the", "▁", "cat", "s", *bee, "湖", "</s>", "▁the", "▁▁", "cat")
    pieces = streamed(byte_fallback, ids)
    assert "".join(pieces) == "the cats🐝绿湖 the  cat"
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_make_no_character_break_nothing(byte_fallback: Any) -> None:
    """A hot model draws such: 0x91 cannot begin a character, and no `A` follows the beginning of one."""
    ids = spelled(byte_fallback, "▁the", "<0x91>", "▁the", "<0x41>", "<0xE7>", "▁the", "cat", "<0xE7>")
    assert "".join(streamed(byte_fallback, ids)).replace("\ufffd", "?") == "the? theA? thecat"
    chance = random.Random(3)
    for _ in range(200):
        streamed(byte_fallback, [chance.randrange(len(byte_fallback)) for _ in range(40)])


def test_a_character_before_the_last_half_one_is_not_lost(tokenizer: Any) -> None:
    whole, half = tokenizer.encode("é"), tokenizer.encode("灯")[:1]
    stream = TextStream(tokenizer)
    assert stream.feed([*whole, *half]) + stream.finish() == "é"
