"""What makes tokens for a server: the words that both ways of generating share. Knows neither of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from backends.engines.transformers_server.sampling import Sampling


class GenerationFailed(Exception):
    """A request could not be carried on with; the message is the library's reason."""


class Generator(Protocol):
    """Token ids in, token ids out. `generated_tokens` counts where they are made, whether anybody reads them or not."""

    in_flight: int

    @property
    def generated_tokens(self) -> int: ...

    @property
    def failure(self) -> str:
        """Why nothing can be generated any more, "" while it can."""
        ...

    def generate(
        self, prompt: Sequence[int], most: int, stop_ids: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[list[int], None]:
        """New token ids as they come, the stop id included; at most `most` of them. Raises GenerationFailed.

        Closing the iterator ends the request within one step.
        """
        ...

    def wait(self) -> None:
        """Returns once there is a `failure`. Blocking."""
        ...
