"""How the fields of the page become sampling parameters."""

from __future__ import annotations

from typing import Any

import pytest

from backends.errors import InvalidRequest
from backends.types import SamplingParams
from webui.sampling import NUMBERS, read
from webui.texts import CHINESE, ENGLISH


def _fields(greedy: bool = False, stop: str | None = None, **numbers: str) -> list[Any]:
    return [*(numbers.get(name) for name in NUMBERS), greedy, stop]


def test_empty_fields_leave_everything_to_the_model() -> None:
    assert read(_fields(), ENGLISH) == SamplingParams()
    assert read(_fields(temperature="  ", stop=""), ENGLISH) == SamplingParams()


def test_every_field_arrives() -> None:
    params = read(
        _fields(
            stop="END\n\n结束", max_new_tokens="64", temperature=" 0.7 ", top_k="20", top_p="0.9",
            repetition_penalty="1.1", seed="42",
        ),
        ENGLISH,
    )  # fmt: skip
    assert params == SamplingParams(64, 0.7, 20, 0.9, 1.1, True, 42, ("END", "结束"))


def test_greedy_wins_over_a_temperature() -> None:
    assert read(_fields(greedy=True, temperature="0.9"), ENGLISH).do_sample is False


@pytest.mark.parametrize("text", ["warm", "nan", "inf", "1,5", "0x10"])
def test_what_is_no_number_is_named_in_the_language_of_the_page(text: str) -> None:
    with pytest.raises(InvalidRequest, match="“Temperature” must be a number"):
        read(_fields(temperature=text), ENGLISH)
    with pytest.raises(InvalidRequest, match="“温度”"):
        read(_fields(temperature=text), CHINESE)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="top_p"):
        read(_fields(top_p="1.5"), ENGLISH)
    with pytest.raises(InvalidRequest, match="max_new_tokens"):
        read(_fields(max_new_tokens="0"), ENGLISH)
