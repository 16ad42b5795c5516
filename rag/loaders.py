"""From a file to LangChain documents: which reader, in its sandbox. Looks at the content, not only at the name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from langchain_core.documents import Document

from rag.errors import UnreadableFile
from rag.readers import DEFAULT_LIMITS, Limits, Progress
from rag.sandbox import read_confined

SUFFIXES = {".txt": "txt", ".md": "md", ".markdown": "md", ".docx": "docx", ".pdf": "pdf"}
_FORMATS = "txt, md, docx or pdf"

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_CONTENTS = (  # how a file begins -> what it is, and the suffix that would be right
    (b"%PDF-", "a PDF", ".pdf"),
    (b"PK\x03\x04", "a zip archive", ".docx"),
    (_OLE, "an old Office file", ""),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xd8\xff", "a picture", ""),
    (b"GIF8", "a picture", ""),
    (b"\x1f\x8b", "a compressed archive", ""),
    (b"7z\xbc\xaf", "a compressed archive", ""),
    (b"Rar!", "a compressed archive", ""),
    (b"\x7fELF", "a program", ""),
    (b"{\\rtf", "a Rich Text file", ""),
)
_OLD_WORD = "This is an old Word file: open it in Word, save it as .docx and upload that."


def load(
    path: Path, name: str, progress: Progress = lambda done, total: None, limits: Limits = DEFAULT_LIMITS
) -> list[Document]:
    """The text of the file at `path`, which the user calls `name`: one document for each page or section that has text.

    Metadata: `page` (int from 1, or None), `heading` ("Chapter > Section" or ""), `note` (what could not be read, such
    as "16 of 19 pages read", or ""). `progress` is told pages done and their total. Blocks, for a minute at most.
    Raises UnreadableFile.
    """
    reader = _reader(path, name, limits)
    reading = read_confined(reader, path, limits, progress)
    return [
        Document(section.text, metadata={"page": section.page, "heading": section.heading, "note": reading.note})
        for section in reading.sections
    ]


def _reader(path: Path, name: str, limits: Limits) -> str:
    """The name of the reader. Raises UnreadableFile: empty, too_large, unsupported, damaged, encrypted."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
        ole_names = head + file.read(1_000_000) if head.startswith(_OLE) else b""
    if suffix not in SUFFIXES:
        if suffix == ".doc" and (not head or head.startswith(_OLE)):
            raise UnreadableFile("unsupported", _OLD_WORD)
        kind = f'"{suffix[:20]}" files are' if suffix else "Files without a suffix are"
        raise UnreadableFile("unsupported", f"{kind} not supported: upload {_FORMATS}.")
    if not size:
        raise UnreadableFile("empty", "This file is empty: check that it was saved, and upload it again.")
    if size > limits.file:
        has, allowed = size // 2**20, limits.file // 2**20
        raise UnreadableFile(
            "too_large", f"This file has {has} MiB; the limit is {allowed} MiB: split it and upload the parts."
        )
    if ole_names and suffix == ".docx":
        # A docx with a password is such a container; its directory names the package in UTF-16.
        if "EncryptedPackage".encode("utf-16-le") in ole_names:
            raise UnreadableFile(
                "encrypted", "This document needs a password: save it without one and upload it again."
            )
        raise UnreadableFile("unsupported", _OLD_WORD)
    _check_content(head, suffix)
    return SUFFIXES[suffix]


def _check_content(head: bytes, suffix: str) -> None:
    if suffix == ".pdf" and b"%PDF-" in head:
        return  # other programs put something before the header, and readers look past it
    for beginning, what, right in _CONTENTS:
        if head.startswith(beginning) and right != suffix:
            remedy = f"rename it to end in {right}" if right == ".pdf" else f"upload {_FORMATS}"
            raise UnreadableFile("damaged", f"The name ends in {suffix}, but the content is {what}: {remedy}.")
