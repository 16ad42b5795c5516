"""What the body of the article's call means, before any service sees it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.article_request import ArticleCall, parse
from backends.errors import InvalidRequest
from backends.types import SamplingParams

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def parsed(content_type: str = JSON, **body: Any) -> ArticleCall:
    return parse(json.dumps(body).encode(), content_type)


def refusal(body: bytes, content_type: str = JSON) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(body, content_type)
    return caught.value.message


def test_a_text_body_is_the_prompt_and_wants_text_back() -> None:
    call = parse("什么是 EasyCV?".encode(), FORM)
    assert (call.prompt, call.bare, call.stream) == ("什么是 EasyCV?", True, False)


def test_the_fields_of_the_article() -> None:
    call = parsed(
        prompt="How to install it?",
        system_prompt="Act like you are programmer with 5+ years of experience.",
        history=[["Can you tell me what's the bladellm?", "BladeLLM is an framework"]],
        max_new_tokens=4096,
        temperature=0.8,
        top_k=10,
        top_p=0.8,
        do_sample=True,
        use_cache=True,
        use_stream_chat=False,
        stop_sequences=["###"],
        stop="END",
        seed=7,
        repetition_penalty=1.1,
    )
    assert call.history == (("Can you tell me what's the bladellm?", "BladeLLM is an framework"),)
    assert call.params == SamplingParams(4096, 0.8, 10, 0.8, 1.1, True, 7, ("END", "###"))
    assert not call.stream
    assert not call.bare
    assert not call.grounded


def test_json_under_a_form_content_type_is_still_json() -> None:
    assert parsed(FORM, prompt="hello").prompt == "hello"
    assert parse(b'\xef\xbb\xbf {"prompt": "hello"}', FORM).prompt == "hello"


def test_text_that_is_declared_as_text_stays_text() -> None:
    assert parse(b"{braces} are not JSON here", "text/plain; charset=utf-8").prompt == "{braces} are not JSON here"


@pytest.mark.parametrize(("spelled", "meant"), [(True, True), ("True", True), ("true", True), ("False", False)])
def test_booleans_may_be_strings(spelled: object, meant: bool) -> None:
    call = parsed(prompt="x", use_stream_chat=spelled, langchain=spelled, do_sample=spelled)
    assert (call.stream, call.grounded, call.params.do_sample) == (meant, meant, meant)


def test_input_ids_is_the_prompt_of_protocol_one_whose_answer_is_bare() -> None:
    call = parsed(input_ids="hello", stop=None, stop_sequences=[], use_stream_chat="True")
    assert (call.prompt, call.bare, call.stream, call.params.stop) == ("hello", True, True, ())


def test_naming_a_knowledge_base_asks_it_unless_langchain_says_no() -> None:
    assert parsed(prompt="x", knowledge_base="手册").grounded
    assert not parsed(prompt="x", knowledge_base="手册", langchain=False).grounded


def test_broken_json_is_told_with_line_column_and_what_is_wrong() -> None:
    message = refusal(b'{\n "use_stream_chat": false\n "prompt": "How?"\n}', FORM)
    assert "line 3, column 2" in message
    assert "',' delimiter" in message
    assert "JSON writes true" in refusal(b'{"prompt": "x", "do_sample": True}')
    assert "double quotes" in refusal(b"{'prompt': 'x'}")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x", "temperature": "warm"}, "temperature"),
        ({"prompt": "x", "temperature": 99}, "temperature"),
        ({"prompt": "x", "top_k": 1.5}, "top_k"),
        ({"prompt": "x", "max_new_tokens": True}, "max_new_tokens"),
        ({"prompt": "x", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "x", "history": "long ago"}, "history"),
        ({"prompt": "x", "history": [["only one"]]}, "history[0]"),
        ({"prompt": "x", "stop": [1]}, "stop"),
        ({"prompt": "x", "langchain": "perhaps"}, "langchain"),
        ({"prompt": "x", "no_template": True, "system_prompt": "Be brief."}, "system_prompt"),
        ({"prompt": "x", "no_template": True, "history": [["a", "b"]]}, "history"),
        ({"prompt": "x", "no_template": "True", "langchain": True}, "langchain"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], named: str) -> None:
    assert refusal(json.dumps(body).encode()).startswith(named)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'"text"',
        b"[" * 100_000,
        b'{"prompt": "x", "top_p": NaN}',
        b'{"prompt": "x", "seed": ' + b"9" * 5_000 + b"}",
        b'{"prompt": "x", "top_p": 1e999}',
        b'{"prompt": "x", "top_k": 1e999}',
    ],
)
def test_nonsense_is_refused_in_one_sentence(body: bytes) -> None:
    assert refusal(body).count("\n") == 0


def test_half_a_surrogate_pair_cannot_reach_an_encoder() -> None:
    call = parse(b'{"prompt": "a\\ud800b", "history": [["\\udfff", ""]]}', JSON)
    assert call.prompt.encode() == b"a?b"
    assert call.history[0][0].encode() == b"?"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("prompt", "input_ids", "history", "temperature", "top_k", "top_p", "stop", "seed", "langchain")


# Generating on a busy machine may be slow; reading is what is tested.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_read_or_refused(body: bytes, content_type: str) -> None:
    with suppress(InvalidRequest):
        assert parse(body, content_type).prompt.strip()


@unhurried
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES), st.sampled_from([JSON, FORM, ""]))
def test_any_json_is_read_or_refused(body: dict[str, Any], content_type: str) -> None:
    assert_read_or_refused(json.dumps(body).encode(), content_type)


@unhurried
@given(st.binary(max_size=200), st.sampled_from([JSON, FORM, "text/plain"]))
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str) -> None:
    assert_read_or_refused(body, content_type)
