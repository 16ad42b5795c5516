"""Reads plain text: one section, paragraphs joined where lines were broken at a width."""

from __future__ import annotations

from pathlib import Path

from rag.readers import Limits, Progress, Reading, Section
from rag.readers.decoding import decode
from rag.text import clean_text, join_lines


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile where the encoding cannot be recognised."""
    text = clean_text(decode(path.read_bytes()))
    return Reading([Section(join_lines(text.split("\n")))])
