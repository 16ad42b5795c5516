from __future__ import annotations

import pytest

from rag.scripts import fluency, scripts, spoken_scripts


def test_shares_are_those_of_the_letters() -> None:
    assert scripts("abc 知识库!") == {"latin": 0.5, "han": 0.5}
    assert scripts("2026 … ?") == {}


def test_a_vocabulary_of_words_speaks_and_one_of_letters_does_not() -> None:
    def by_words(text: str) -> list[int]:
        return [7 for _ in text.split()]

    def by_letters(text: str) -> list[int]:
        return [7 for _ in text]

    assert "latin" in spoken_scripts(by_words, unknown=0)
    assert "latin" not in spoken_scripts(by_letters, unknown=0)
    # One character is one word of a Chinese vocabulary.
    assert "han" in spoken_scripts(by_letters, unknown=0)


def test_a_vocabulary_that_does_not_know_the_characters_does_not_speak() -> None:
    assert "han" not in spoken_scripts(lambda text: [0 for _ in text], unknown=0)


@pytest.mark.parametrize(("text", "expected"), [("hello", 1.0), ("知识库", 0.0), ("ab知识", 0.5), ("42", 1.0)])
def test_fluency_of_an_english_model(text: str, expected: float) -> None:
    assert fluency(scripts(text), frozenset({"latin"})) == expected
