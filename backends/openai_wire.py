"""The OpenAI chat protocol as data: what is asked, what an answer says, what an error says. Knows no network.

What arrives is hostile until read: only `choices[0].delta.content`, `finish_reason`, `usage` and `error` are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import Busy, EngineFailed, InvalidRequest, QuartetError
from backends.types import Delta, Message, SamplingParams, Usage

MAX_SENTENCE = 400

Body = dict[str, Any]


def request_body(model: str, messages: Sequence[Message], params: SamplingParams) -> Body:
    """What goes over the wire: only what was asked for, so that the model's own defaults hold for the rest."""
    wanted = {
        "max_tokens": params.max_new_tokens,
        "temperature": 0.0 if params.do_sample is False else params.temperature,
        # Alone it makes a model sample that is greedy by itself, with the temperature that it brings along.
        "do_sample": params.do_sample or None,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "stop": list(params.stop) or None,
    }
    asked: Body = {"prompt": messages[-1].content} if params.raw else {"messages": [_turn(one) for one in messages]}
    return {
        **params.extra,
        "model": model,
        **asked,
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in wanted.items() if value is not None},
    }


def _turn(message: Message) -> Body:
    return {**message.extra, "role": message.role, "content": message.content}


class Answer:
    """What is known of one answer so far: fed with lines, it gives text back, and at the end the last Delta."""

    def __init__(self) -> None:
        self.done = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        return self.done or self._finish_reason is not None

    def read(self, line: bytes) -> str:
        """The new text in one line of the event stream. Raises what the server reports as an error."""
        if not line.startswith(b"data:"):
            return ""
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return ""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise nonsense() from error
        if not isinstance(event, dict):
            raise nonsense()
        if event.get("error") or event.get("object") == "error":
            raise _reported(event)
        self._usage = _usage(event.get("usage")) or self._usage
        return self._choice(event.get("choices"))

    def _choice(self, choices: object) -> str:
        if not choices:
            return ""
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise nonsense()
        reason = choices[0].get("finish_reason")
        if reason in ("error", "abort"):
            raise lost()
        if isinstance(reason, str) and reason:
            self._finish_reason = "length" if reason == "length" else "stop"
        delta = choices[0].get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        if content is not None and not isinstance(content, str):
            raise nonsense()
        # Half a surrogate pair would break every encoder further on.
        return (content or "").encode("utf-8", "replace").decode()

    def last(self) -> Delta:
        if not self.complete:
            raise lost()
        return Delta("", self._finish_reason or "stop", self._usage)


def refusal(status: int, body: bytes, retry_after: str) -> QuartetError:
    """The error that an HTTP status other than 200 stands for."""
    sentence = _sentence_in(body)
    if status == 429:
        return Busy(sentence or "The engine has too much to do; try again in a moment.", _seconds(retry_after))
    if status in (400, 413, 422) and sentence:
        return InvalidRequest(sentence)
    if status in (401, 403):
        return EngineFailed("The engine does not accept the key; set the right one in QUARTET_ENGINE_KEY.")
    return EngineFailed(f"The engine answered with HTTP status {status}{': ' + sentence if sentence else '.'}")


def _reported(event: Mapping[str, Any]) -> QuartetError:
    """The error that the server put into the stream."""
    error = event.get("error") or event
    code = error.get("code") if isinstance(error, dict) else None
    sentence = _sentence(error)
    if code == 400 and sentence:
        return InvalidRequest(sentence)
    if code == 429:
        return Busy(sentence or "The engine has too much to do; try again in a moment.")
    return EngineFailed(f"The engine failed while it answered: {sentence}" if sentence else str(lost()))


def _sentence_in(body: bytes) -> str:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return _sentence(parsed)


def _sentence(value: object) -> str:
    """What a person can read in {"error": {"message": ...}}, {"error": "..."}, {"message": ...} or {"detail": ...}."""
    for _ in range(3):
        if not isinstance(value, dict):
            break
        value = value.get("error") or value.get("message") or value.get("detail")
    if not isinstance(value, str):
        return ""
    clean = " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * MAX_SENTENCE]).split())
    return clean if len(clean) <= MAX_SENTENCE else clean[: MAX_SENTENCE - 1] + "…"


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    # type() and not isinstance: True is an int.
    if type(prompt) is int and type(completion) is int and min(prompt, completion) >= 0:
        return Usage(prompt, completion)
    return None


def _seconds(header: str) -> int:
    return min(int(header), 3600) if header.isascii() and header.isdigit() and len(header) < 6 else 5


def lost() -> EngineFailed:
    return EngineFailed("The engine was lost while it answered; ask again in a moment.")


def nonsense() -> EngineFailed:
    return EngineFailed(
        "The engine sent something that is no answer in the OpenAI format; check that its address is right."
    )


def too_slow(seconds: float) -> EngineFailed:
    return EngineFailed(
        f"The engine sent nothing for {seconds:.0f} seconds, so the request was given up; try again later."
    )
