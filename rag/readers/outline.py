"""Gathers blocks of text under the headings of a document and gives one section for each heading."""

from __future__ import annotations

from rag.readers import Section


class Outline:
    """Fed in the order of the document. The text of a section begins with its own title; a title that has nothing
    below it but a deeper one goes with that one, so that no section is a mere title."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []
        self._only_titles = True
        self._sections: list[Section] = []

    def heading(self, level: int, title: str) -> None:
        """A lower `level` is a higher heading. An empty title ends what is below the one before."""
        deeper = self._path and level > self._path[-1][0]
        if not (self._only_titles and deeper):
            self._end_section()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if title:
            self._path.append((level, title))
            self._blocks.append(title)

    def add(self, block: str) -> None:
        """A paragraph, table, list or block of code."""
        if block.strip():
            self._blocks.append(block)
            self._only_titles = False

    def sections(self) -> list[Section]:
        """All of them; the outline is at its end then."""
        self._end_section()
        return self._sections

    def _end_section(self) -> None:
        if self._blocks:
            heading = " > ".join(title for _, title in self._path)
            self._sections.append(Section("\n\n".join(self._blocks), heading=heading))
        self._blocks = []
        self._only_titles = True
