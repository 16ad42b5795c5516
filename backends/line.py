"""Who may be answered now: so many at once, so many in line behind them, first come first served. Knows no model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from backends.errors import Busy


class Line:
    """`places` answers at once and `longest` in line; nobody stands in it for more than `patience` seconds."""

    def __init__(self, places: int, longest: int, patience: float) -> None:
        self._places, self._longest, self._patience = places, longest, patience
        self._taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> int:
        """How many hold a place now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many stand in line now."""
        return len(self._line)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """A place for as long as the block runs. Raises Busy when the line is full or does not move; whoever is
        cancelled while in line leaves it."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._taken < self._places:
            self._taken += 1
            return
        if len(self._line) >= self._longest:
            raise Busy(
                f"{self._taken} answers are being given and {len(self._line)} questions are in line, which is all that "
                "is allowed here: ask again in a moment."
            )
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn in self._line:
                self._line.remove(turn)
            else:  # the place came in the very moment of giving up
                self._leave()
            if isinstance(error, TimeoutError):
                raise Busy(
                    f"The question stood in line for {self._patience:.0f} seconds: ask again in a moment."
                ) from error
            raise

    def _leave(self) -> None:
        """Hand the place on: it is never free while somebody waits, so nobody can jump the line."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
