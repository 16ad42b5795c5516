"""What a request asks for, completed with the model's own defaults; nonsense is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backends.engines.transformers_server.request import read_chat
from backends.errors import InvalidRequest

MESSAGES = [{"role": "user", "content": "Hi"}]
PLAIN = SimpleNamespace()
SAMPLES = SimpleNamespace(do_sample=True, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05)


def read(defaults: Any = PLAIN, **fields: Any) -> Any:
    return read_chat({"messages": MESSAGES, **fields}, defaults)


def test_without_wishes_the_models_defaults_hold() -> None:
    asked = read(SAMPLES).sampling
    assert (asked.do_sample, asked.temperature, asked.top_k, asked.top_p) == (True, 0.7, 20, 0.8)
    assert asked.repetition_penalty == 1.05
    assert read().sampling.do_sample is False
    assert read().most is None
    assert read(SimpleNamespace(max_new_tokens=64)).most == 64


def test_a_wish_wins_over_the_default() -> None:
    asked = read(SAMPLES, temperature=1.5, top_k=0, top_p=1, repetition_penalty=1, seed=4, max_tokens=9, stop="x")
    assert asked.sampling.temperature == 1.5
    assert (asked.sampling.top_k, asked.sampling.top_p, asked.sampling.repetition_penalty) == (0, 1.0, 1.0)
    assert (asked.sampling.seed, asked.most, asked.stop) == (4, 9, ("x",))


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-30])
def test_no_temperature_is_greedy(temperature: float) -> None:
    asked = read(SAMPLES, temperature=temperature).sampling
    assert (asked.do_sample, asked.repetition_penalty) == (False, 1.0)
    assert read(SAMPLES, temperature=temperature, repetition_penalty=1.2).sampling.repetition_penalty == 1.2
    assert read(SAMPLES, do_sample=False).sampling.repetition_penalty == 1.05


def test_asking_how_to_sample_is_asking_to_sample() -> None:
    assert read(temperature=0.5).sampling.do_sample is True
    assert read(top_p=0.5).sampling.do_sample is True
    assert read(repetition_penalty=1.2).sampling.do_sample is False


def test_do_sample_is_taken_as_said() -> None:
    assert read(SAMPLES, do_sample=False).sampling.do_sample is False
    assert read(do_sample=True).sampling.do_sample is True


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_new_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": float("inf")}, "top_k"),
        ({"top_p": 2}, "top_p"),
        ({"seed": -3}, "seed"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"min_p": 0.1}, "does not know min_p"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "enable_thinking"),
        ({"response_format": {"type": "json_object"}}, "does not know response_format"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
    ],
)
def test_nonsense_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        read(**fields)


def test_what_asks_for_nothing_is_no_nonsense() -> None:
    read(response_format={"type": "text"}, frequency_penalty=0, logprobs=False, tools=[])


@pytest.mark.parametrize(("options", "think"), [(None, None), ({}, None), ({"enable_thinking": False}, False)])
def test_whether_the_model_shall_think_first_is_said_as_to_vllm(options: Any, think: bool | None) -> None:
    assert read(chat_template_kwargs=options).think is think


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON object"):
        read_chat(["Hi"], PLAIN)
