"""Reading what a checkpoint folder says of itself: JSON files and sentencepiece models. No torch, no third party."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; {} when it is optional and not there. Raises ModelUnusable that names the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise ModelUnusable(f"{path.name} is missing in {path.parent.name}: download the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path.name} in {path.parent.name} cannot be read: download this file again.") from error
    if not isinstance(found, dict):
        raise ModelUnusable(f"{path.name} in {path.parent.name} is damaged: download this file again.")
    return found


def tokenizer_file(folder: Path, name: str) -> Path:
    """The path of a tokenizer file that must be there. Raises ModelUnusable that names it."""
    path = folder / name
    if not path.is_file():
        raise ModelUnusable(f"The tokenizer file {name} is missing in {folder.name}: download it from the model's hub.")
    return path


@dataclass(frozen=True)
class SentencePieceModel:
    """What a sentencepiece file holds: pieces (text, score, type) in the order of their ids, and how it normalises."""

    pieces: tuple[tuple[str, float, int], ...]
    model_type: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def piece(self, index: int) -> str:
        return self.pieces[index][0] if 0 <= index < len(self.pieces) else ""

    def index(self, piece: str) -> int | None:
        return next((number for number, entry in enumerate(self.pieces) if entry[0] == piece), None)


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Parse a sentencepiece file (a protobuf message). Raises ModelUnusable when it is damaged."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                piece = dict(_fields(value))
                (score,) = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))
                pieces.append((piece[1].decode("utf-8"), score, piece.get(3, NORMAL)))
            elif field == 2:
                trainer = dict(_fields(value))
            elif field == 3:
                normalizer = dict(_fields(value))
    except (OSError, ValueError, KeyError, IndexError, struct.error, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{path.name} in {path.parent.name} is damaged: download this file again.") from error
    if not pieces:
        raise ModelUnusable(f"{path.name} in {path.parent.name} is no sentencepiece model: download this file again.")
    return SentencePieceModel(
        tuple(pieces),
        trainer.get(3, UNIGRAM),
        bool(trainer.get(35, 0)),
        normalizer.get(2, b""),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message: numbers as int, everything else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if at + length > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
