"""Who may be answered now: so many at once, so many in line behind them, first come first served. Knows no model."""

from __future__ import annotations

import asyncio

from backends.errors import Busy


class Line:
    """`places` answers at once and `longest` in line; nobody stands in it for more than `patience` seconds."""

    def __init__(self, places: int, longest: int, patience: float) -> None:
        self._places, self._longest, self._patience = places, longest, patience
        self._taken = 0
        self._waiting: list[Turn] = []

    @property
    def taken(self) -> int:
        """How many hold a place now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many stand in line now."""
        return len(self._waiting)

    def join(self) -> Turn:
        """Take a place or stand in line; `leave` the turn in any case. Raises Busy when the line is full."""
        if self._taken >= self._places and len(self._waiting) >= self._longest:
            raise Busy(
                f"{self._taken} answers are being given and {len(self._waiting)} questions are in line, which is all "
                "that is allowed here: ask again in a moment."
            )
        turn = Turn(self, self._patience)
        if self._taken < self._places:
            self._taken += 1
        else:
            self._waiting.append(turn)
        return turn

    def before(self, turn: Turn) -> int:
        """The turn's place in line, from 1; 0 when it is its turn."""
        return self._waiting.index(turn) + 1 if turn in self._waiting else 0

    def leave(self, turn: Turn) -> None:
        """Hand the place on: it is never free while somebody waits, so nobody can jump the line."""
        moving = list(self._waiting)
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif self._waiting:
            self._waiting.pop(0)
        else:
            self._taken -= 1
        for other in moving:
            other.moved.set()


class Turn:
    """One question in the line."""

    def __init__(self, line: Line, patience: float) -> None:
        self.moved = asyncio.Event()
        self._line, self._patience = line, patience
        self._deadline = asyncio.get_running_loop().time() + patience

    @property
    def before(self) -> int:
        """The place in line, from 1; 0 when it is this one's turn."""
        return self._line.before(self)

    async def nearer(self, than: int) -> int:
        """Wait until the place in line is another one than this; the new one. Raises Busy after too long a wait."""
        try:
            async with asyncio.timeout_at(self._deadline):
                while self.before == than:
                    self.moved.clear()
                    await self.moved.wait()
        except TimeoutError as error:
            raise Busy(
                f"The question stood in line for {self._patience:.0f} seconds: ask again in a moment."
            ) from error
        return self.before

    def leave(self) -> None:
        """Give the place, or the place in line, to the next one."""
        self._line.leave(self)
