"""Sessions of people who logged in with a browser, and the count of wrong guesses. In memory; knows no HTTP."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

COOKIE = "quartet_session"


class Sessions:
    """Random session ids, kept as hashes until they expire or, over `capacity`, until newer ones take their place."""

    def __init__(
        self, lifetime: float = 7 * 86_400, capacity: int = 1_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lifetime = int(lifetime)
        self._capacity = capacity
        self._clock = clock
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def create(self) -> str:
        """A new session id of 256 random bits."""
        session = secrets.token_urlsafe(32)
        self._expiry[_digest(session)] = self._clock() + self.lifetime
        while len(self._expiry) > self._capacity:
            self._expiry.popitem(last=False)
        return session

    def valid(self, session: str) -> bool:
        """Whether the session was created here and has not expired."""
        key = _digest(session)
        expiry = self._expiry.get(key)
        if expiry is not None and expiry <= self._clock():
            del self._expiry[key]
            return False
        return expiry is not None

    def end(self, session: str) -> None:
        """Forget a session."""
        self._expiry.pop(_digest(session), None)


class Attempts:
    """Wrong guesses per address: at most `limit` within `seconds`."""

    def __init__(
        self, limit: int, seconds: float, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._capacity = capacity
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until this address may guess again; 0 when it may now."""
        times = self._failures.get(address)
        if times is None or len(times) < self._limit:
            return 0
        return max(0, int(times[0] + self._seconds - self._clock() + 0.999))

    def failed(self, address: str) -> None:
        """Count a wrong guess."""
        times = self._failures.setdefault(address, deque(maxlen=self._limit))
        times.append(self._clock())
        self._failures.move_to_end(address)
        while len(self._failures) > self._capacity:
            self._failures.popitem(last=False)


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode("utf-8", "replace")).digest()
