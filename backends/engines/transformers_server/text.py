"""From token ids to text as it can be shown: never half a character, never a piece of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NO_CHARACTER = "\ufffd"
# A character is four bytes at most, so what has not become one after some more tokens never will.
_MOST_PENDING = 6


class Decoder:
    """Decodes one stream, token by token.

    The library's own DecodeStream gives up with an error where bytes do not make a character, as they may in what a
    model draws; here they become U+FFFD.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        # Told are ids[:_told]; those from _context on are decoded again with the new ones, as a token's text depends
        # on what stands before it (a space at the beginning of a word, say).
        self._ids: list[int] = []
        self._context = self._told = 0

    def step(self, token: int) -> str:
        """The text that one more token makes certain."""
        self._ids.append(token)
        text = self._pending()
        if text.endswith(_NO_CHARACTER) and len(self._ids) - self._told < _MOST_PENDING:
            return ""
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text

    def rest(self) -> str:
        """What is left at the end, without half a character."""
        return self._pending().rstrip(_NO_CHARACTER)

    def _pending(self) -> str:
        before, now = self._decoded(self._context, self._told), self._decoded(self._context, None)
        # Bytes may take those before them along into being no character: then the new ones are read alone.
        return now[len(before) :] if now.startswith(before) else self._decoded(self._told, None)

    def _decoded(self, start: int, end: int | None) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True))


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

    def finish(self) -> str:
        """What was held back, once it is known that nothing follows; "" after a stop text."""
        if not self.stopped:
            self._hold(self._decoder.rest())
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
