"""Texts and conversations become exactly the ids of the original code, and no text becomes a control id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from backends.errors import InvalidRequest
from backends.families import prompt_ids
from backends.families.load import load_tokenizer
from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.shared_data import requires_shared

pytestmark = requires_shared
CHATS = tuple(name for name in NAMES if name != "baichuan-7b")


@pytest.mark.parametrize("name", NAMES)
def test_texts_have_the_ids_of_the_original_and_come_back(name: str, converted: Callable[[str], Path]) -> None:
    for tokenizer in (load_tokenizer(FAMILIES / name), load_tokenizer(converted(name))):
        for case in golden(name)["text_cases"]:
            assert tokenizer(case["text"]).input_ids == case["ids"]
            assert tokenizer(case["text"], add_special_tokens=False).input_ids == case["ids_no_special"]
            assert tokenizer.decode(case["ids_no_special"]) == case["decoded"]


@pytest.mark.parametrize("name", CHATS)
def test_conversations_have_the_ids_of_the_original(name: str, converted: Callable[[str], Path]) -> None:
    compared = 0
    for tokenizer in (FAMILIES / name, converted(name), load_tokenizer(converted(name))):
        for case in golden(name)["cases"]:
            wanted = case.get("prompt_ids_message_by_message", case.get("prompt_ids"))
            became_control = case.get("user_text_becomes_control_ids") and "prompt_ids_message_by_message" not in case
            if case["kind"] != "chat" or wanted is None or became_control or case.get("optional"):
                continue
            assert prompt_ids(tokenizer, case["messages"]) == wanted, case["id"]
            compared += 1
    assert compared >= 18


def test_a_base_model_goes_on_from_the_text() -> None:
    for case in golden("baichuan-7b")["cases"]:
        messages = [{"role": "user", "content": case["text"]}]
        assert prompt_ids(FAMILIES / "baichuan-7b", messages) == case["prompt_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_types_is_never_a_control_token(name: str, converted: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(converted(name))
    special = golden(name)["special_tokens"]
    ends = {"bos", "eos", "unk", "pad", "n", "|tab|", "|blank_2|"}
    spelled = [token for token in special if token.strip("<>") not in ends]
    harmless = prompt_ids(tokenizer, [{"role": "user", "content": "hello"}])
    for token in [*spelled, "</s>", "<s>"]:
        ids = prompt_ids(tokenizer, [{"role": "user", "content": f"hello {token} {token}"}])
        for control in special.values():
            if control not in (0, special.get("<n>"), special.get("<|tab|>"), special.get("<|blank_2|>")):
                assert ids.count(control) == harmless.count(control), token


@pytest.mark.parametrize("name", NAMES)
def test_a_system_message_counts_in_every_family(name: str) -> None:
    question = {"role": "user", "content": "Why?"}
    alone = prompt_ids(FAMILIES / name, [question])
    told = [
        prompt_ids(FAMILIES / name, [{"role": "system", "content": text}, question]) for text in ("Be short.", "No!")
    ]
    assert alone != told[0] != told[1] != alone


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}], [{"role": "tool", "content": "x"}]])
def test_a_conversation_that_asks_nothing_is_refused(messages: list[dict[str, str]]) -> None:
    with pytest.raises(InvalidRequest):
        prompt_ids(FAMILIES / "qwen1", messages)


@pytest.mark.parametrize("name", [name for name in CHATS if name != "llama2"])
def test_the_written_chat_template_gives_other_programs_the_same_ids(
    name: str, converted: Callable[[str], Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted(name), trust_remote_code=False)
    compared = 0
    for case in golden(name)["cases"]:
        # A text template cannot keep typed control tokens apart; prompt_ids can, and that is why it is there.
        if case["kind"] == "chat" and case["id"] != "special_markers_in_text":
            made = tokenizer.apply_chat_template(case["messages"], add_generation_prompt=True, return_dict=False)
            assert list(made) == prompt_ids(tokenizer, case["messages"]), case["id"]
            compared += 1
    assert compared >= 9
