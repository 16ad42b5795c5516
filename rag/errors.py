"""Why a document could not be read. One error, whose `reason` is one of a closed list."""

from __future__ import annotations

from typing import Literal, get_args

from backends.errors import QuartetError

Reason = Literal["encrypted", "damaged", "no_text", "unsupported", "unsafe", "too_slow", "too_large", "empty"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class UnreadableFile(QuartetError):
    """The file is refused. The message is one sentence: the cause, then the remedy."""

    code = "unreadable_file"

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelChanged(QuartetError):
    """A vector is of a model that is not in service any more; make it anew. Never seen by a user."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("The embedding model was just changed; try again.")
