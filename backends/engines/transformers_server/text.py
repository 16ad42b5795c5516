"""From token ids to text as it can be shown: never half a character, never a piece of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.families.decoding import Decoder

_NO_CHARACTER = "\ufffd"


class TextStream:
    """Fed with token ids, it gives the text that is certain. `stopped` tells that a stop text was reached."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decoder = Decoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, ids: Sequence[int]) -> str:
        """The new text up to a stop text; what may still become one is held back."""
        for token in ids:
            if self.stopped:
                break
            self._hold(self._decoder.step(token))
        certain = len(self._held) - (0 if self.stopped else self._uncertain())
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def finish(self, half: bool = False) -> str:
        """What was held back, once it is known that nothing follows; "" after a stop text.

        `half`: whether a character of which only the beginning came is told as U+FFFD.
        """
        if not self.stopped:
            rest = self._decoder.rest()
            self._hold(rest if half else rest.rstrip(_NO_CHARACTER))
        text, self._held = self._held, ""
        return text

    def _hold(self, text: str) -> None:
        self._held += text
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            self.stopped = True

    def _uncertain(self) -> int:
        """How many characters at the end are the beginning of a stop text."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
