"""What the readers of txt, md, docx and pdf have in common: what they return, and the limits they keep to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rag.errors import UnreadableFile

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Limits:
    """How much one document may cost. Sizes are in bytes unless the name says otherwise, times in seconds."""

    file: int = 200 * 1024 * 1024
    characters: int = 30_000_000  # of text that comes out

    pdf_pages: int = 5_000
    pdf_stream: int = 20_000_000  # of one stream, inflated

    docx_members: int = 2_000
    docx_xml: int = 100_000_000  # all XML parts together, inflated
    docx_inflated: int = 400_000_000  # all members together; photographs are large and cost little
    docx_ratio: int = 200  # inflated to packed, for each XML part
    docx_elements: int = 200_000  # paragraphs and table cells

    memory: int = 1_536 * 1024 * 1024  # address space of the reading process
    cpu_seconds: int = 60
    wall_seconds: float = 60.0


DEFAULT_LIMITS = Limits()


def too_much_text(characters: int, limits: Limits) -> UnreadableFile:
    """What a reader raises for more text than one document may hold."""
    return UnreadableFile(
        "too_large",
        f"This file holds {characters:,} characters of text; the limit is {limits.characters:,}: "
        "split it and upload the parts.",
    )


@dataclass(frozen=True)
class Section:
    """A page of a PDF (`page` counts from 1), or what stands below one heading (`heading`: "Chapter > Section")."""

    text: str
    page: int | None = None
    heading: str = ""


@dataclass(frozen=True)
class Reading:
    """What a reader found. `note` tells what is missing, such as "16 of 19 pages read", or is empty."""

    sections: list[Section]
    note: str = ""
