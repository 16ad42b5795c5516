"""What a WebSocket connection remembers of its messages."""

from __future__ import annotations

import pytest

from api.article_dialogue import MAX_CHARACTERS, MAX_TURNS, Dialogue, Question, is_stop
from backends.errors import InvalidRequest


def asked(dialogue: Dialogue, message: str) -> Question:
    question = dialogue.read(message)
    assert question is not None
    return question


def test_plain_text_is_a_prompt_and_is_streamed() -> None:
    question = asked(Dialogue(), "How can I get there?")
    assert (question.call.prompt, question.call.stream, question.format) == ("How can I get there?", True, "text")


def test_a_message_without_a_prompt_changes_settings_that_hold_from_then_on() -> None:
    dialogue = Dialogue()
    assert dialogue.read('{"system_prompt": "Be brief.", "top_k": 3}') is None
    assert dialogue.read('{"stream_format": "delta"}') is None
    question = asked(dialogue, "And now?")
    assert (question.call.system_prompt, question.call.params.top_k, question.format) == ("Be brief.", 3, "delta")
    again = asked(dialogue, '{"prompt": "More?", "top_k": 5, "system_prompt": null}')
    assert (again.call.system_prompt, again.call.params.top_k) == ("", 5)
    assert asked(dialogue, "Still?").call.params.top_k == 5


def test_history_grows_with_the_answers_and_a_message_may_bring_its_own() -> None:
    dialogue = Dialogue()
    dialogue.answered("a?", "A.")
    assert asked(dialogue, "b?").call.history == (("a?", "A."),)
    assert asked(dialogue, '{"prompt": "c?", "history": [["x?", "X."]]}').call.history == (("x?", "X."),)
    assert dialogue.read('{"history": []}') is None
    assert asked(dialogue, "d?").call.history == ()


def test_history_is_bounded_in_turns_and_in_characters() -> None:
    dialogue = Dialogue()
    for number in range(MAX_TURNS + 5):
        dialogue.answered(f"{number}?", "yes")
    assert len(dialogue.history) == MAX_TURNS
    assert dialogue.history[-1] == (f"{MAX_TURNS + 4}?", "yes")
    dialogue.answered("long?", "x" * (MAX_CHARACTERS - 100))
    assert dialogue.history[-1][0] == "long?"
    assert sum(len(question) + len(answer) for question, answer in dialogue.history) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("{}", "empty"),
        ("   ", "prompt is missing or empty"),
        ('{"prompt": ""}', "prompt is missing or empty"),
        ('{"prompt": 7}', "prompt must be a text"),
        ('{"temperature": "hot"}', "temperature must be a number"),
        ('{"top_k": 3,\n "prompt": True}', "line 2, column 12"),
        ('{"stream_format": "xml", "prompt": "a"}', "stream_format"),
    ],
)
def test_a_wrong_message_is_named_and_changes_nothing(message: str, named: str) -> None:
    dialogue = Dialogue()
    dialogue.read('{"top_k": 9}')
    with pytest.raises(InvalidRequest, match=named):
        dialogue.read(message)
    question = asked(dialogue, "a?")
    assert (question.call.params.top_k, question.format) == (9, "text")


@pytest.mark.parametrize(
    ("message", "stops"),
    [
        ('{"type": "stop"}', True),
        (' {"type":"stop"} ', True),
        ('{"prompt": "\\"stop\\""}', False),
        ('{"type": "stop"', False),
        ('"stop"', False),
        ("stop", False),
    ],
)
def test_only_a_message_of_type_stop_stops(message: str, stops: bool) -> None:
    assert is_stop(message) is stops
