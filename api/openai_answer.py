"""An answer as OpenAI writes it, whole or as events. Makes bytes of values; knows no network and no model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from api.answer_json import source_json, usage_json
from rag.types import AnswerDelta, Source

_HERE = "\x01text\x01"  # stands in a made-up event where the text of real ones goes


class Answer:
    """One answer of `/v1/chat/completions`, or where not `chat` of `/v1/completions`. `model` is the name it gives.

    It is fed with deltas: with `events` for a stream, with `add` for the whole.
    """

    def __init__(self, model: str, chat: bool, include_usage: bool = False) -> None:
        self._chat, self._include_usage = chat, include_usage
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._deltas: list[AnswerDelta] = []
        self._last = AnswerDelta(finish_reason="stop")
        self._sources: tuple[Source, ...] | None = None
        self._notes: tuple[str, ...] = ()
        # Most events differ in their text alone.
        self._before, self._after = self._event(self._said(_HERE)).split(orjson.dumps(_HERE))

    def add(self, delta: AnswerDelta) -> None:
        """Take a delta in, for the whole."""
        self._deltas.append(delta)
        self._note(delta)

    def _note(self, delta: AnswerDelta) -> None:
        if delta.sources is not None:
            self._sources = delta.sources
        self._notes += delta.notes
        if delta.finish_reason is not None:
            self._last = delta

    def opening(self) -> bytes:
        """What comes before the first piece."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self._chat else b""

    def events(self, delta: AnswerDelta) -> bytes:
        """One event for each piece of text; none for what `ending` will say."""
        self._note(delta)
        parts = []
        if delta.reasoning and self._chat:
            parts.append(self._event({"delta": {"reasoning_content": delta.reasoning}}))
        if delta.extra and delta.extra.keys() != {"half_character"}:
            parts.append(self._event(self._said(delta.text, delta.extra)))
        elif delta.text:
            before, after, dumps = self._before, self._after, orjson.dumps
            parts += [before + dumps(piece) + after for piece in delta.pieces or (delta.text,)]
        return b"".join(parts)

    def ending(self) -> bytes:
        """What comes after the last piece: why it ended, sources and notes, the usage if it was asked for."""
        said = self._said("")
        if self._chat:
            said = {"delta": self._read()}
        last = self._event(said, self._last.finish_reason)
        if self._include_usage:
            usage = usage_json(self._last.usage)
            last += _packed({**self._head, "object": self._kind(".chunk"), "choices": [], "usage": usage})
        return last + b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        """The whole answer, one JSON object."""
        extras = [delta.extra for delta in self._deltas if delta.extra]
        text = "".join(
            [*(delta.text for delta in self._deltas), *(extra.get("half_character", "") for extra in extras)]
        )
        said = {"message": self._message(text, extras)} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": _logprobs(extras), "finish_reason": self._last.finish_reason}
        usage = usage_json(self._last.usage)
        return orjson.dumps({**self._head, "object": self._kind(), "choices": [choice], "usage": usage})

    def _kind(self, chunk: str = "") -> str:
        return f"chat.completion{chunk}" if self._chat else "text_completion"

    def _said(self, text: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the choice of an event says about a piece of text, and what the engine said with it."""
        more = {name: value for name, value in (extra or {}).items() if name != "half_character"}
        logprobs = {"logprobs": more.pop("logprobs", None)}
        return {"delta": {"content": text, **more}, **logprobs} if self._chat else {"text": text, **logprobs}

    def _event(self, said: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, **said, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return _packed({**self._head, "object": self._kind(".chunk"), "choices": [choice], **usage})

    def _message(self, text: str, extras: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thought := "".join(delta.reasoning for delta in self._deltas):
            message["reasoning_content"] = thought
        if calls := _tool_calls(extras):
            message |= {"content": text or None, "tool_calls": calls}
        return message | self._read()

    def _read(self) -> dict[str, Any]:
        """What the model was given to read from documents, and what of it or of the conversation did not fit."""
        sources = {} if self._sources is None else {"sources": [source_json(source) for source in self._sources]}
        return {**sources, "notes": list(self._notes)} if self._notes else sources


def _packed(event: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _logprobs(extras: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
    """Those of all pieces in one: an object of lists, of which each piece has brought a part."""
    joined: dict[str, list[Any]] = {}
    for extra in extras:
        part = extra.get("logprobs")
        for name, values in part.items() if isinstance(part, dict) else ():
            if isinstance(values, list):
                joined.setdefault(name, []).extend(values)
    return joined or None


def _tool_calls(extras: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The calls whole: each piece names the call it belongs to by its index, and brings a part of the arguments."""
    calls: dict[int, dict[str, Any]] = {}
    for extra in extras:
        for part in extra.get("tool_calls") or ():
            said = part.get("function") or {}
            whole = calls.setdefault(
                part.get("index", len(calls)), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            whole["id"] = part.get("id") or whole["id"]
            function = whole["function"]
            function["name"] = said.get("name") or function["name"]
            function["arguments"] += said.get("arguments") or ""
    return [calls[index] for index in sorted(calls)]
