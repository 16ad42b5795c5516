"""The OpenAI chat protocol as data: what is asked, what an answer says, what an error says. Knows no network.

What arrives is hostile until read: of `choices[0]` only the text, the thought, tool calls, logprobs and the reason it
ended are looked at, besides `usage` and `error`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from backends.errors import Busy, EngineFailed, InvalidRequest, QuartetError
from backends.thinking import ThoughtSplitter
from backends.types import Delta, Message, SamplingParams, Usage

MAX_LINE_BYTES = 1024 * 1024
MAX_SENTENCE = 400
# What an answer ends with that was cut within a character: told apart from its text, for those who give it as a whole.
HALF_CHARACTER = "\ufffd"

# How an answer ended, in our words; whatever else a server says is a plain end.
_REASONS = {"length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}

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
    """What is known of one answer so far: fed with bytes of the event stream, it gives deltas, at the end the last one.

    `events` counts what may be taken for a sign of life; comments and blank lines are none.
    """

    def __init__(self, thoughts: ThoughtSplitter) -> None:
        self.done = False
        self.error: QuartetError | None = None
        self.events = 0
        self._thoughts = thoughts
        self._rest = b""
        self._texts: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        return self.done or self._finish_reason is not None

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas in these bytes, the texts of neighbouring events in one. What is wrong comes after them, as
        `error`: with what the server itself reports, or because it makes no sense."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        deltas: list[Delta] = []
        try:
            for line in lines:
                if line.startswith(b"data:"):
                    self.events += 1
                    deltas += self._event(line[5:].strip())
                    if self.done:
                        break
            if len(self._rest) > MAX_LINE_BYTES:
                raise nonsense()
        except QuartetError as error:
            self.error = error
        return deltas + self._gathered()

    def _event(self, data: bytes) -> list[Delta]:
        """The deltas that are certain after this event; a plain text is gathered, for the next ones to join it."""
        if data == b"[DONE]":
            self.done = True
            return []
        event = _parsed(data)
        if event.get("error") or event.get("object") == "error":
            raise _reported(event)
        if (usage := event.get("usage")) is not None:
            self._usage = _usage(usage) or self._usage
        if not (choices := event.get("choices")):
            return []
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise nonsense()
        choice = choices[0]
        if (reason := choice.get("finish_reason")) is not None:
            self._end(reason)
        said = choice.get("delta")
        if not isinstance(said, dict):  # a completion of text has it in the choice itself
            said = {"content": choice.get("text")}
        elif len(said) == 1 and type(text := said.get("content")) is str and not choice.get("logprobs"):
            self._texts.append(text)  # most events, and so the short way
            return []
        text = _text(said.get("content"))
        thought = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
        extra = _extra(choice, said)
        if thought or extra:
            return [*self._gathered(), *self._delta([text], thought, extra)]
        self._texts.append(text)
        return []

    def _gathered(self) -> list[Delta]:
        texts, self._texts = self._texts, []
        return self._delta(texts) if texts else []

    def _delta(self, texts: Sequence[str], thought: str = "", extra: Body | None = None) -> list[Delta]:
        if not self._thoughts.answering:
            split = [self._thoughts.feed(text) for text in texts if text]
            thought += "".join(before for before, _ in split)
            texts = [text for _, text in split]
        pieces = tuple(text for text in texts if text)
        text = "".join(pieces)
        if not text and not thought and not extra:
            return []
        return [Delta(text, reasoning=thought, pieces=pieces if len(pieces) > 1 else (), extra=extra)]

    def _end(self, reason: object) -> None:
        if reason in ("error", "abort"):
            raise lost()
        if isinstance(reason, str) and reason:
            self._finish_reason = _REASONS.get(reason, "stop")

    def last(self) -> Delta:
        """What ends the answer. Raises EngineFailed when it broke off."""
        if not self.complete:
            raise lost()
        thought, text = self._thoughts.finish()
        return Delta(text, self._finish_reason or "stop", self._usage, thought)


def _parsed(data: bytes) -> Body:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        # It takes no half of a surrogate pair and no NaN, which engines of others may send.
        event = _leniently(data)
    if not isinstance(event, dict):
        raise nonsense()
    return event


def _leniently(data: bytes) -> Any:
    try:
        # Half a surrogate pair would break every encoder further on.
        return json.loads(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise nonsense() from error


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise nonsense()
    return value


def _extra(choice: Body, said: Body) -> Body | None:
    """What else was said with a piece, checked as far as we look into it ourselves."""
    logprobs, calls, half = choice.get("logprobs"), said.get("tool_calls"), said.get("half_character")
    extra: Body = {}
    if half == HALF_CHARACTER:
        extra["half_character"] = half
    if isinstance(logprobs, dict):
        extra["logprobs"] = logprobs
    if calls:
        if not isinstance(calls, list) or not all(map(_is_call, calls)):
            raise nonsense()
        extra["tool_calls"] = calls
    return extra or None


def _is_call(value: object) -> bool:
    if not isinstance(value, dict) or type(value.get("index", 0)) is not int:
        return False
    function = value.get("function") or {}
    parts = (value.get("id"), function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0,)
    return all(part is None or isinstance(part, str) for part in parts)


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
