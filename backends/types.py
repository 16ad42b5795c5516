"""The words every part of Quartet shares about text generation. Frozen values; imports nothing of ours but errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from backends.errors import InvalidRequest

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Quotation:
    """A passage put before the model; the answer cites it as `[number]`."""

    number: int
    text: str
    source: str


@dataclass(frozen=True)
class Message:
    """One turn. When `content` is a prompt built from documents, `question` is what the user typed and
    `quotations` are the passages in it, for an engine that quotes instead of generating. `extra` holds what else the
    OpenAI protocol says of a turn (name, tool_calls, tool_call_id), for an engine that has tools."""

    role: Role
    content: str
    question: str = ""
    quotations: tuple[Quotation, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingParams:
    """How to sample; None means the model's own default.

    `max_new_tokens` counts generated tokens, `top_k=0` switches top-k off, `do_sample=False` is greedy. With `raw` the
    one message goes to the model as it is, without a chat template. `extra` holds further fields for the engine, which
    are its own to understand. Raises InvalidRequest that names the field when a value is out of its range.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    raw: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _within("max_new_tokens", self.max_new_tokens, 1, 131_072)
        _within("temperature", self.temperature, 0.0, 5.0)
        _within("top_k", self.top_k, 0, 1_000)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.1, 5.0)
        _within("seed", self.seed, 0, 2**63 - 1)
        if len(self.stop) > 8 or any(not 1 <= len(text) <= 64 for text in self.stop):
            raise InvalidRequest("stop takes at most 8 texts of 1 to 64 characters each.", "stop")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    # `not (low <= value <= high)` also catches NaN.
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}; it was {value}.", name)


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Delta:
    """A piece of new text. Only the last one carries finish_reason ("stop" | "length" | "tool_calls") and usage.

    `pieces` is the same text as the engine cut it, where several of its events arrived together. `reasoning` is what
    the model thought before it answered; it is no part of the answer. `extra` is what else the engine said with this
    piece (logprobs, tool_calls), as the OpenAI protocol writes it. `place` is the question's place in line, from 1, in
    deltas without text that come before the first word.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str = ""
    pieces: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None
    place: int = 0


@dataclass(frozen=True)
class Patience:
    """How long an engine is waited for, in seconds: until the first token of an answer, and between its tokens."""

    first_token: float = 300.0
    next_token: float = 60.0


@dataclass(frozen=True)
class Progress:
    """How far a long job is: a stage such as "downloading", and `done` of `total` in its unit (0 = unknown)."""

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""


class ChatModel(Protocol):
    """A model that answers. Closing the iterator stops the generation and frees its slot."""

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]: ...
