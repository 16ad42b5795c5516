"""What the OpenAPI document says about the bodies of OpenAI's calls; they are read in openai_request.py."""

from __future__ import annotations

from typing import Any

_SAMPLING: dict[str, Any] = {
    "model": {"type": "string"},
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": -1},
    "repetition_penalty": {"type": "number"},
    "do_sample": {"type": "boolean"},
    "seed": {"type": "integer", "minimum": 0},
    "stop": {"type": "array", "items": {"type": "string"}},
    "n": {"type": "integer", "enum": [1]},
    "stream": {"type": "boolean", "default": False},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"type": "string"},
    },
}


def _body(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(kind: str) -> dict[str, Any]:
    """Whole as an object of this kind, or as events."""
    fields: dict[str, Any] = {"id": {"type": "string"}, "object": {"const": kind}, "created": {"type": "integer"}}
    fields |= {"model": {"type": "string"}, "choices": {"type": "array"}, "usage": {"type": ["object", "null"]}}
    whole = {"schema": {"type": "object", "required": list(fields), "properties": fields}}
    content = {"application/json": whole, "text/event-stream": {"schema": {"type": "string"}}}
    return {"responses": {"200": {"description": "The answer, whole or as events.", "content": content}}}


CHAT = _body(
    ["messages"],
    {
        "messages": {"type": "array", "items": _MESSAGE},
        "knowledge_base": {"type": "string"},
        "mode": {"type": "string", "enum": ["both", "retrieve", "model"], "default": "both"},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        **_SAMPLING,
    },
) | _answers("chat.completion")
TEXT = _body(["prompt"], {"prompt": {"type": "string"}, **_SAMPLING}) | _answers("text_completion")
EMBEDDINGS = _body(
    ["input"],
    {
        "input": {"type": "array", "items": {"type": "string"}},
        "model": {"type": "string"},
        "encoding_format": {"type": "string", "enum": ["float", "base64"], "default": "float"},
        "dimensions": {"type": "integer"},
    },
)
