"""From token ids to text, one token after the other: never half a character. Knows tokenizers, no engine and no model.

The library's own ways fall short of the original tokenizers: where bytes make no character, its DecodeStream gives up
with an error and its byte fallback loses the characters beside them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

_NO_CHARACTER = "\ufffd"
# A character is four bytes at most, so what has not become one after some more tokens never will.
_MOST_PENDING = 6
_SPACE = " "


class Decoder:
    """Decodes one answer.

    `special`: whether control tokens are text too. `follows`: whether the answer goes on in a text, so that a space in
    front of its first word is meant; else that space is the tokenizer's own, and left out as the original does.
    """

    def __init__(self, tokenizer: Any, special: bool = False, follows: bool = False) -> None:
        backend = tokenizer.backend_tokenizer
        in_bytes = bytes_of_tokens(backend)
        self._skipped: set[int] = set()
        if not special:
            self._skipped = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        self._text: _Bytes | _Again = _Again(backend)
        if in_bytes is not None:
            first, later = in_bytes
            self._text = _Bytes(later if follows else first, later)

    def step(self, token: int) -> str:
        """The text that one more token makes certain."""
        return "" if token in self._skipped else self._text.step(token)

    def rest(self) -> str:
        """What is left at the end: U+FFFD for each character of which only the beginning came."""
        return self._text.rest()


OfToken = Callable[[int], bytes]


def bytes_of_tokens(backend: Any) -> tuple[OfToken, OfToken] | None:
    """What an id is at the beginning of a text, and what it adds later; None for a tokenizer whose tokens have no bytes
    of their own.

    Reads the decoder as tokenizer.json has it: ByteLevel, or the steps that stand for sentencepiece with byte fallback.
    """
    if backend.decoder is None:
        return None
    described = json.loads(backend.decoder.__getstate__())
    steps = described["decoders"] if described["type"] == "Sequence" else [described]
    kinds = {step["type"] for step in steps}

    def token(index: int) -> str:
        return backend.id_to_token(index) or ""

    if kinds == {"ByteLevel"}:
        return (lambda index: _from_letters(token(index)),) * 2
    replaced = [(step["pattern"].get("String"), step["content"]) for step in steps if step["type"] == "Replace"]
    stripped = [(step["content"], step["start"], step["stop"]) for step in steps if step["type"] == "Strip"]
    if kinds - {"Replace", "ByteFallback", "Fuse", "Strip"} or "ByteFallback" not in kinds:
        return None
    if any(pattern is None for pattern, _ in replaced) or stripped not in ([], [(_SPACE, 1, 0)]):
        return None
    # The space that sentencepiece puts in front of every text.
    mark = next((old for old, new in replaced if new == _SPACE), "") if stripped else ""
    return lambda index: _from_piece(token(index).removeprefix(mark), replaced), lambda index: _from_piece(
        token(index), replaced
    )


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (those of GPT-2)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(spare)) for byte in range(256)]


_BYTES = {letter: byte for byte, letter in enumerate(byte_letters())}


def _from_letters(token: str) -> bytes:
    # An added token is plain text, and may hold letters that stand for no byte.
    known = all(letter in _BYTES for letter in token)
    return bytes(_BYTES[letter] for letter in token) if known else token.encode()


def _from_piece(piece: str, replaced: list[tuple[str, str]]) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    for old, new in replaced:
        piece = piece.replace(old, new)
    return piece.encode("utf-8", "replace")


class _Bytes:
    """Tokens that are bytes: whole characters come out as soon as they are whole."""

    def __init__(self, first: OfToken, later: OfToken) -> None:
        self._next, self._later = first, later
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, token: int) -> str:
        new, self._next = self._next(token), self._later
        return self._decoder.decode(new)

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Again:
    """Any other tokenizer: what is not certain is decoded again with the next token."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        # Told are ids[:_told]; those from _context on are decoded again with the new ones, as a token's text depends
        # on what stands before it (a space at the beginning of a word, say).
        self._ids: list[int] = []
        self._context = self._told = 0

    def step(self, token: int) -> str:
        self._ids.append(token)
        text = self.rest()
        if text.endswith(_NO_CHARACTER) and len(self._ids) - self._told < _MOST_PENDING:
            return ""
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text

    def rest(self) -> str:
        before, now = self._decoded(self._context, self._told), self._decoded(self._context, None)
        return now[len(before) :] if now.startswith(before) else self._decoded(self._told, None)

    def _decoded(self, start: int, end: int | None) -> str:
        return str(self._backend.decode(self._ids[start:end], skip_special_tokens=False))
