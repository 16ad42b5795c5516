"""The parts of an answer as JSON, the same in every protocol. Knows no protocol."""

from __future__ import annotations

from typing import Any

from backends.types import Usage
from rag.types import Source


def source_json(source: Source) -> dict[str, Any]:
    """A source on the wire; `score` is 0..1, higher is better, `quoted` what the model read: `text`, with what stands
    around it where there was room."""
    hit = source.hit
    return {
        "number": source.number,
        "file": hit.file,
        "page": hit.page,
        "heading": hit.heading,
        "score": round(hit.score, 4),
        "text": hit.text,
        "quoted": source.quoted,
        "passage_id": hit.passage_id,
        "file_id": hit.file_id,
    }


def usage_json(usage: Usage | None) -> dict[str, int] | None:
    """The counts of tokens; None where the engine does not count."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
