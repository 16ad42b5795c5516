"""One dialogue over a WebSocket as data: its messages read, its settings and history kept. Knows no socket."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from api.article_request import ArticleCall, from_json, is_json, load_call
from api.fields import choice
from backends.errors import InvalidRequest

# What belongs to one message; every other field is a setting, which holds until a later message changes it.
_OF_ONE_MESSAGE = frozenset({"prompt", "input_ids", "history", "type"})
MAX_TURNS, MAX_CHARACTERS = 200, 1_000_000

Format = Literal["text", "delta", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Question:
    """A message to answer. `format` says what its frames carry: the text so far, the new text, or JSON objects."""

    call: ArticleCall
    format: Format


class Dialogue:
    """What a connection remembers. `history` holds (question, answer) pairs, the oldest are let go first."""

    def __init__(self) -> None:
        self.history: tuple[tuple[str, str], ...] = ()
        self._settings: dict[str, Any] = {}

    def read(self, text: str) -> Question | None:
        """Take in a message, JSON or plain text; None when it has no prompt and only changes settings or history.

        Raises InvalidRequest, and then nothing has changed.
        """
        body = load_call(text) if is_json(text) else {"prompt": text}
        settings = self._settings | {name: value for name, value in body.items() if name not in _OF_ONE_MESSAGE}
        own = {name: value for name, value in body.items() if name in _OF_ONE_MESSAGE}
        asks = "prompt" in own or "input_ids" in own
        if not asks and not body:
            raise InvalidRequest("The message is empty: send the prompt as text, or as JSON with a field 'prompt'.")
        call = from_json(settings | own, streamed=True, needs_prompt=asks)
        form = choice(settings, "stream_format", FORMATS)
        self._settings = settings
        if body.get("history") is not None:
            self.history = call.history
        return Question(replace(call, history=self.history), form) if asks else None

    def answered(self, prompt: str, answer: str) -> None:
        """Remember a turn; of a stopped answer what was said."""
        self.history = (*self.history, (prompt, answer))[-MAX_TURNS:]
        while len(self.history) > 1 and sum(len(question) + len(text) for question, text in self.history) > (
            MAX_CHARACTERS
        ):
            self.history = self.history[1:]


def is_stop(text: str) -> bool:
    """Whether a message asks to stop the answer that is being given: {"type": "stop"}."""
    if '"stop"' not in text or not is_json(text) or len(text) > 200:
        return False
    try:
        return load_call(text).get("type") == "stop"
    except InvalidRequest:
        return False
