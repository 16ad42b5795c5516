"""Looks at a docx before python-docx opens it: is it one, and does it inflate to more than it may? Streams it all."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from xml.parsers import expat

from rag.errors import UnreadableFile
from rag.readers import Limits

_BLOCK = 64 * 1024
_COUNTED = ("p", "tc")  # paragraphs and table cells are what python-docx is slow at


def check(path: Path, limits: Limits) -> None:
    """Raises UnreadableFile: damaged, unsafe, too_large, encrypted."""
    try:
        with zipfile.ZipFile(path) as package:
            members = package.infolist()
            _check_members(members, limits)
            counter = _Counter(limits)
            for member in members:
                counter.read(package, member)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, LookupError, ValueError, OSError, zlib.error) as error:
        raise damaged() from error


def damaged() -> UnreadableFile:
    return UnreadableFile(
        "damaged", "This file cannot be read as a Word document: open it in Word, save it anew and upload it again."
    )


def _is_called_xml(member: zipfile.ZipInfo) -> bool:
    return member.filename.lower().endswith((".xml", ".rels"))


def _check_members(members: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(members) > limits.docx_members:
        raise _unsafe(f"has {len(members)} parts, and {limits.docx_members} are allowed")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise _unsafe("has two parts of the same name")
    if any(member.flag_bits & 0x1 for member in members):
        raise UnreadableFile("encrypted", "This document needs a password: save it without one and upload it again.")
    # The size in the directory can be believed: zipfile reads no more than it, and checks the sum over what it read.
    inflated = sum(member.file_size for member in members)
    xml = sum(member.file_size for member in members if _is_called_xml(member))
    for size, bound, what in ((inflated, limits.docx_inflated, ""), (xml, limits.docx_xml, " of text")):
        if size > bound:
            raise _unsafe(f"unpacks to {size // 1_000_000} MB{what}, and {bound // 1_000_000} MB are allowed")
    for member in members:
        if _is_called_xml(member) and member.file_size > limits.docx_ratio * max(1, member.compress_size):
            raise _unsafe("is packed tighter than any text is")
    if "[Content_Types].xml" not in names:
        raise damaged()


class _Counter:
    """Goes through the XML parts without building a tree; the counts run over all parts."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0

    def read(self, package: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._element
        try:
            with package.open(member) as part:
                while block := part.read(_BLOCK):
                    parser.Parse(block)
                parser.Parse(b"", True)
        except expat.ExpatError as error:
            # Any part may be declared to be XML, whatever its name: only a look inside tells.
            if _is_called_xml(member):
                raise damaged() from error

    def _doctype(self, *_: object) -> None:
        raise _unsafe("declares entities, which Word never does")

    def _element(self, name: str, _: dict[str, str]) -> None:
        if name.rpartition(" ")[2] in _COUNTED:
            self._count += 1
            if self._count > self._limits.docx_elements:
                raise _unsafe(f"has more than {self._limits.docx_elements:,} paragraphs and table cells")


def _unsafe(what: str) -> UnreadableFile:
    return UnreadableFile(
        "unsafe", f"This document {what}: copy the text you need into a new document and upload that."
    )
