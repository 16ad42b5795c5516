"""Answers are the text of the original tokenizer, token by token and as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from backends.families.decoding import Decoder, bytes_of_tokens
from backends.families.load import load_tokenizer
from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.shared_data import requires_shared


def text_of(decoder: Decoder, ids: list[int]) -> str:
    return "".join(decoder.step(index) for index in ids) + decoder.rest()


@requires_shared
@pytest.mark.parametrize("name", NAMES)
def test_what_the_original_generated_reads_as_it_read_there(name: str) -> None:
    tokenizer = load_tokenizer(FAMILIES / name)
    for case in golden(name)["cases"]:
        if "greedy_ids" in case:
            assert text_of(Decoder(tokenizer), case["greedy_ids"]) == case["greedy_decoded_skip_special"], case["id"]


@requires_shared
@pytest.mark.parametrize("name", NAMES)
def test_texts_come_back(name: str) -> None:
    tokenizer = load_tokenizer(FAMILIES / name)
    for case in golden(name)["text_cases"]:
        assert text_of(Decoder(tokenizer, special=True), case["ids_no_special"]) == case["decoded"], case


def tokenizer(decoder: Any, *words: str) -> Any:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=words[0])


SENTENCEPIECE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def test_only_the_tokenizers_own_space_is_left_out() -> None:
    made = tokenizer(SENTENCEPIECE, "<unk>", "▁a", "▁", "▁▁", "b")
    assert text_of(Decoder(made), [1, 1, 4]) == "a ab"
    assert text_of(Decoder(made, follows=True), [1, 1, 4]) == " a ab"
    assert text_of(Decoder(made), [3, 4]) == " b"
    assert text_of(Decoder(made), [4, 1]) == "b a"


def test_a_byte_that_makes_no_character_costs_no_other() -> None:
    made = tokenizer(SENTENCEPIECE, "<unk>", "<0x41>", "<0xE7>", "<0x81>", "<0xAF>", "<0x4_>")
    assert text_of(Decoder(made), [1, 2, 1, 2, 3, 4, 1, 5, 2, 3]) == "A\ufffdA灯A<0x4_>\ufffd"
    decoder = Decoder(made)
    assert [decoder.step(index) for index in (2, 3, 4)] == ["", "", "灯"]


def test_control_tokens_are_text_only_when_asked_for() -> None:
    made = tokenizer(SENTENCEPIECE, "<unk>", "▁a")
    made.add_special_tokens({"eos_token": "<end>"})
    ids = [1, made.eos_token_id, 1]
    assert text_of(Decoder(made), ids) == "a a"
    assert text_of(Decoder(made, special=True), ids) == "a<end> a"


def test_a_tokenizer_of_another_kind_is_decoded_by_the_library() -> None:
    made = tokenizer(decoders.WordPiece("##", cleanup=False), "[UNK]", "light", "##house", "keeper")
    assert bytes_of_tokens(made.backend_tokenizer) is None
    assert text_of(Decoder(made), [1, 2, 3]) == "lighthouse keeper"
