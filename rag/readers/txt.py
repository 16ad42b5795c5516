"""Reads plain text: one section, paragraphs joined where lines were broken at a width."""

from __future__ import annotations

from pathlib import Path

from rag.readers import Limits, Progress, Reading, Section
from rag.readers.decoding import read_text
from rag.text import join_wrapped


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile: damaged (no encoding fits), too_large."""
    text = read_text(path, limits)
    return Reading([Section(join_wrapped(text))])
