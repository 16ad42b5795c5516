"""The count of wrong guesses, per whoever guesses and per what is guessed at. In memory; knows no HTTP."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable


class Attempts:
    """Wrong guesses per key (an address, a name): at most `limit` within `seconds`."""

    def __init__(
        self, limit: int, seconds: float, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._capacity = capacity
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str) -> int:
        """Seconds until the next guess; 0 when it may be made now."""
        times = self._failures.get(key)
        if times is None or len(times) < self._limit:
            return 0
        return max(0, int(times[0] + self._seconds - self._clock() + 0.999))

    def failed(self, key: str) -> None:
        """Count a wrong guess."""
        times = self._failures.setdefault(key, deque(maxlen=self._limit))
        times.append(self._clock())
        self._failures.move_to_end(key)
        while len(self._failures) > self._capacity:
            self._failures.popitem(last=False)

    def undo(self, key: str) -> None:
        """Take back the newest guess, which was right."""
        if times := self._failures.get(key):
            times.pop()
