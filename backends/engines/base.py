"""What every engine is to the model manager. Knows no particular engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backends.types import ChatModel, Progress

Report = Callable[[Progress], None]


class Engine(Protocol):
    """One way to serve one model. Started once and stopped once; a restart is a new engine."""

    backend: str  # "transformers" | "vllm" | "openai"

    @property
    def trouble(self) -> str:
        """Why it cannot answer just now though it has not ended, in plain words; "" while it can."""
        ...

    async def start(self, report: Report) -> ChatModel:
        """The model, ready to answer. Raises EngineFailed or ModelUnusable with the reason in plain words."""
        ...

    async def stop(self) -> None:
        """End it and give its memory back; bounded in time, and stopping twice is fine."""
        ...

    async def ended(self) -> str:
        """The reason in plain words, once the engine has died by itself; an engine without a process never returns."""
        ...

    def log_tail(self) -> list[str]:
        """The last lines of its log, oldest first."""
        ...
