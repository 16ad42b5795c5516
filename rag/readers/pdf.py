"""Reads PDF with pypdf: one section for each page. Pages that fail or are pictures are counted in a note; no OCR."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from itertools import groupby, pairwise
from pathlib import Path

from pypdf import PageObject, PasswordType, PdfReader, overwrite_configuration
from pypdf.errors import FileNotDecryptedError
from pypdf.generic import DictionaryObject

from rag.errors import UnreadableFile
from rag.readers import Limits, Progress, Reading, Section
from rag.text import clean_text, is_readable, join_lines

_PAGE_NUMBER = re.compile(
    r"\W*(?:page|p\.|pg\.?|seite|第)?\s*(\d{1,5})\s*(?:[页頁])?(?:\s*(?:of|/|von|共)\s*\d{1,5}\s*[页頁]?)?\W*", re.I
)
_NUMBERED = re.compile(r"^(\d{1,5})\s+(.+)$|^(.+?)\s+(\d{1,5})$")
_EDGE = 2  # lines at the top and at the bottom where headers and footers are looked for
_ROW = 4  # pages


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile: encrypted, damaged, too_large."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every fault of a page, again and again
    reader = _open(path, limits)
    total = _count_pages(reader, limits)
    pages: list[list[str]] = []
    failed = pictures = 0
    for number in range(total):
        try:
            page = reader.pages[number]
            text = clean_text(page.extract_text())
            pictures += not text.strip() and _has_picture(page)
        except MemoryError:
            raise
        except FileNotDecryptedError:
            raise _encrypted() from None
        except Exception:  # noqa: BLE001  whatever one page provokes, the others are worth having
            failed += 1
            text = ""
        if text.strip() and not is_readable(text):
            failed += any(map(str.isalnum, text))
            text = ""
        pages.append(text.split("\n"))
        progress(number + 1, total)
    if total and failed == total:
        raise UnreadableFile(
            "damaged", "None of the pages of this PDF could be read: open it in a PDF viewer and save it anew."
        )
    sections = [Section(join_lines(lines), page) for page, lines in enumerate(without_running_lines(pages), start=1)]
    note = f"{total - failed - pictures} of {total} pages read" if failed or pictures else ""
    if pictures:
        note += f"; {pictures} without text, only pictures"
    return Reading([section for section in sections if section.text], note)


def _has_picture(page: PageObject) -> bool:
    resources = page.get("/Resources", DictionaryObject()).get_object()
    objects = resources.get("/XObject", DictionaryObject()).get_object()
    return any(entry.get_object().get("/Subtype") == "/Image" for entry in objects.values())


def _open(path: Path, limits: Limits) -> PdfReader:
    try:
        _tighten(limits)
        reader = PdfReader(path)
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise _encrypted()
    except (MemoryError, UnreadableFile):
        raise
    except Exception as error:
        raise _damaged() from error
    return reader


def _tighten(limits: Limits) -> None:
    """pypdf's own limits are per stream and generous, and for some pictures it would start a program."""
    overwrite_configuration(
        maximum_declared_stream_length=limits.pdf_stream,
        array_based_stream_maximum_output_length=limits.pdf_stream,
        lzw_maximum_output_length=limits.pdf_stream,
        run_length_maximum_output_length=limits.pdf_stream,
        zlib_maximum_output_length=limits.pdf_stream,
        brotli_maximum_output_length=limits.pdf_stream,
        stream_decoding_work_maximum_length=4 * limits.pdf_stream,
        jbig2dec_binary=None,
    )


def _count_pages(reader: PdfReader, limits: Limits) -> int:
    try:
        total = len(reader.pages)
    except MemoryError:
        raise
    except FileNotDecryptedError:
        raise _encrypted() from None
    except Exception as error:
        raise _damaged() from error
    if not total:
        raise _damaged()
    if total > limits.pdf_pages:
        raise UnreadableFile(
            "too_large", f"This PDF has {total} pages; the limit is {limits.pdf_pages}: split it and upload the parts."
        )
    return total


def _encrypted() -> UnreadableFile:
    return UnreadableFile("encrypted", "This PDF needs a password: save it without one and upload it again.")


def _damaged() -> UnreadableFile:
    return UnreadableFile(
        "damaged", "This file cannot be read as a PDF: open it in a PDF viewer, save it anew and upload it again."
    )


def without_running_lines(pages: list[list[str]]) -> list[list[str]]:
    """The pages without the lines that come back at the top or bottom of most of them, page numbers included, and those
    that are the first or last of several pages in a row, or of every second one, but for the first of these: so come
    the titles of chapters."""
    filled = [page for page in pages if any(line.strip() for line in page)]
    if len(filled) < 3:
        return pages
    counts: Counter[str] = Counter()
    outermost: defaultdict[str, list[int]] = defaultdict(list)
    for number, page in enumerate(pages):
        edges = _edges(page)
        counts.update({key for at in edges for key in _keys(page[at].strip(), number)})
        for key in {key for at in (*edges[:1], *edges[-1:]) for key in _keys(page[at].strip(), number)}:
            outermost[key].append(number)
    running = {key for key, count in counts.items() if count >= max(3, 0.5 * len(filled))}
    titles = {key: numbers[0] for key, numbers in outermost.items() if _in_a_row(numbers)}
    kept = []
    for number, page in enumerate(pages):
        again = running | {key for key, first in titles.items() if first < number}
        drop = {at for at in _edges(page) if again.intersection(_keys(page[at].strip(), number))}
        kept.append([line for at, line in enumerate(page) if at not in drop])
    # Pages that are all alike, such as forms, would lose everything.
    return kept if any(line.strip() for page in kept for line in page) else pages


def _edges(page: list[str]) -> list[int]:
    filled = [at for at, line in enumerate(page) if line.strip()]
    return sorted({*filled[:_EDGE], *filled[-_EDGE:]})


def _in_a_row(numbers: list[int]) -> bool:
    """Whether `_ROW` of these pages have at most one other page between each two."""
    near = [after - before <= 2 for before, after in pairwise(numbers)]
    return any(same and len(list(group)) >= _ROW - 1 for same, group in groupby(near))


def _keys(line: str, page: int) -> set[str]:
    """What makes a line the same on another page: its text, or a page number that counts along."""
    keys = {line}
    if match := _PAGE_NUMBER.fullmatch(line):
        keys.add(f"{int(match[1]) - page}")
    elif match := _NUMBERED.match(line):
        number, text = (match[1], match[2]) if match[1] else (match[4], match[3])
        if " " in text or len(text) > 12:  # "Chapter 3" is a heading, "Annual report 3" is a running title
            keys.add(f"{int(number) - page} {text}")
    return keys
