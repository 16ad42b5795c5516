"""Reads docx with python-docx: one section for each heading, tables as rows, also text boxes and footnotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import UnreadableFile
from rag.readers import Limits, Progress, Reading
from rag.readers.outline import Outline
from rag.readers.package import check, damaged
from rag.readers.table import table_lines
from rag.text import clean_text

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_HEADING = re.compile(r"(?:heading|标题|標題)\s*(\d)", re.I)
_WHITE = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
# A second version of the same text box, what a tracked change has taken away, and how a character is pronounced,
# which stands above it and would tear words apart.
_UNSHOWN = {_FALLBACK, f"{_W}del", f"{_W}moveFrom", f"{_W}rt", f"{_W}pPr", f"{_W}rPr"}
_REPORT_EVERY = 500  # blocks
_REPEATED = 120  # characters; more than that is not said again in every row of a merged cell


def read(path: Path, limits: Limits, progress: Progress) -> Reading:
    """Raises UnreadableFile: damaged, unsafe, encrypted, too_large."""
    check(path, limits)
    from docx import Document  # after the check: a bomb is refused before any of this is loaded

    try:
        document = Document(str(path))
        body = document.element.body
        outline = Outline()
        _fill(outline, body, _Styles(_heading_levels(document), _header_styles(document)), progress)
        for part in _notes(document):
            outline.heading(0, "")
            for note in _parse(part.blob):
                outline.add(_text(note))
    except (MemoryError, UnreadableFile):
        raise
    except Exception as error:
        raise damaged() from error

    # Whole files of other formats may be put within; Word shows them as part of the text.
    embedded = sum(1 for _ in body.iter(f"{_W}altChunk"))
    return Reading(outline.sections(), f"embedded files not read: {embedded}" if embedded else "")


def _notes(document: Any) -> list[Any]:
    kinds = ("/footnotes", "/endnotes")
    return [
        rel.target_part for rel in document.part.rels.values() if not rel.is_external and rel.reltype.endswith(kinds)
    ]


def _parse(xml: bytes) -> Any:
    from docx.oxml import parse_xml

    return parse_xml(xml)


@dataclass(frozen=True)
class _Styles:
    """`levels` of headings by the id of the style; `headers` are the styles of tables whose first row looks like none
    of the others."""

    levels: dict[str, int]
    headers: frozenset[str]


def _heading_levels(document: Any) -> dict[str, int]:
    """Style id -> level, by the name of the style or the outline level it sets; 0 is the title of the document."""
    levels = {}
    for style in document.styles.element.iterfind(f"{_W}style"):
        identity = style.get(f"{_W}styleId") or ""
        name = style.find(f"{_W}name")
        title = (name.get(f"{_W}val") or "") if name is not None else ""
        if match := _HEADING.match(title):
            levels[identity] = max(1, int(match[1]))
        elif title.lower() in ("title", "标题", "標題"):
            levels[identity] = 0  # above all chapters
        elif (outline := _outline_level(style)) is not None:
            levels[identity] = outline
    return levels


def _header_styles(document: Any) -> frozenset[str]:
    styles = {style.get(f"{_W}styleId"): style for style in document.styles.element.iterfind(f"{_W}style")}
    headers = set()
    for identity, style in styles.items():
        for _ in styles:  # as long as one may stand on another
            if any(part.get(f"{_W}type") == "firstRow" for part in style.iterfind(f"{_W}tblStylePr")):
                headers.add(identity)
                break
            based = style.find(f"{_W}basedOn")
            style = styles.get(based.get(f"{_W}val")) if based is not None else None
            if style is None:
                break
    return frozenset(headers)


def _outline_level(element: Any) -> int | None:
    level = element.find(f"{_W}pPr/{_W}outlineLvl")
    value = level.get(f"{_W}val") if level is not None else None
    return int(value) + 1 if value and value.isdigit() and int(value) < 9 else None


def _fill(outline: Outline, body: Any, styles: _Styles, progress: Progress) -> None:
    blocks = list(_blocks(body))
    for at, block in enumerate(blocks):
        if at % _REPORT_EVERY == 0:
            progress(at, len(blocks))
        text = _table(block, styles.headers) if block.tag == f"{_W}tbl" else _text(block)
        level = _level(block, styles.levels)
        if level is None or not text:
            outline.add(text)
        else:
            outline.heading(level, " ".join(text.split()))
    progress(len(blocks), len(blocks))


def _blocks(element: Any) -> Iterator[Any]:
    """Paragraphs and tables in their order, also those within content controls."""
    for child in element:
        if child.tag in (f"{_W}p", f"{_W}tbl"):
            yield child
        elif child.tag == f"{_W}sdt":
            content = child.find(f"{_W}sdtContent")
            if content is not None:
                yield from _blocks(content)
        elif child.tag in (f"{_W}ins", f"{_W}moveTo", f"{_W}customXml", f"{_W}smartTag"):
            yield from _blocks(child)


def _level(block: Any, levels: dict[str, int]) -> int | None:
    if block.tag != f"{_W}p":
        return None
    direct = _outline_level(block)
    style = block.find(f"{_W}pPr/{_W}pStyle")
    return direct if direct is not None else levels.get(style.get(f"{_W}val") if style is not None else "")


def _table(table: Any, headers: frozenset[str]) -> str:
    rows, marked = [], []
    above: dict[int, str] = {}  # by the column of the grid
    for row in table.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is not table:
            continue  # the row of a table within a cell: it is in the text of that cell
        cells = [cell for cell in row.iter(f"{_W}tc") if next(cell.iterancestors(f"{_W}tr")) is row]
        above = _columns(row, cells, above)
        rows.append(list(above.values()))
        marked.append(_is_on(row.find(f"{_W}trPr/{_W}tblHeader")) or _is_bold(row))
    # The first row is a header where Word is told so, where it alone is bold, or where the style sets it apart.
    has_header = len(rows) > 1 and ((marked[0] and not marked[1]) or _looks_headed(table, headers))
    return table_lines(rows, has_header)


def _looks_headed(table: Any, headers: frozenset[str]) -> bool:
    """Whether the style of the table sets its first row apart, and is let. Source: ECMA-376, 17.4.55 (tblLook)."""
    style, look = table.find(f"{_W}tblPr/{_W}tblStyle"), table.find(f"{_W}tblPr/{_W}tblLook")
    if style is None or look is None or style.get(f"{_W}val") not in headers:
        return False
    if (first_row := look.get(f"{_W}firstRow")) is not None:
        return first_row in ("1", "true", "on")
    bits = look.get(f"{_W}val") or ""
    return re.fullmatch(r"[0-9A-Fa-f]{1,8}", bits) is not None and bool(int(bits, 16) & 0x20)


def _columns(row: Any, cells: list[Any], above: dict[int, str]) -> dict[int, str]:
    """The texts of a row by the columns where they begin. What is merged over several rows is said in each of them."""
    texts: dict[int, str] = {}
    column = _number(row.find(f"{_W}trPr/{_W}gridBefore"), 0)
    for cell in cells:
        merged = cell.find(f"{_W}tcPr/{_W}vMerge")
        if merged is not None and merged.get(f"{_W}val") != "restart":
            text = above.get(column, "")
            texts[column] = text if len(text) <= _REPEATED else ""
        else:
            texts[column] = " ".join(_text(cell).split())
        column += max(1, _number(cell.find(f"{_W}tcPr/{_W}gridSpan"), 1))
    return texts


def _number(property_: Any, otherwise: int) -> int:
    value = property_.get(f"{_W}val") if property_ is not None else None
    return int(value) if value and value.isdecimal() else otherwise


def _is_bold(row: Any) -> bool:
    runs = [run for run in row.iter(f"{_W}r") if run.find(f"{_W}t") is not None]
    return bool(runs) and all(_is_on(run.find(f"{_W}rPr/{_W}b")) for run in runs)


def _is_on(switch: Any) -> bool:
    """Whether a property that is on or off is there and on."""
    return switch is not None and switch.get(f"{_W}val", "true") not in ("0", "false", "off")


def _text(element: Any) -> str:
    """All text below `element`, paragraphs on lines of their own; what Word would not show is left out."""
    pieces: list[str] = []
    _collect(element, pieces)
    return clean_text("".join(pieces)).strip()


def _collect(element: Any, pieces: list[str]) -> None:
    for child in element:
        tag = child.tag
        if tag in (f"{_W}t", f"{_M}t"):
            pieces.append(child.text or "")
        elif tag in _WHITE:
            pieces.append(_WHITE[tag])
        elif tag in _UNSHOWN or (tag == f"{_W}r" and _is_on(child.find(f"{_W}rPr/{_W}vanish"))):
            continue
        elif tag == f"{_W}p":
            pieces.append("\n")
            _collect(child, pieces)
            pieces.append("\n")
        elif isinstance(tag, str):
            _collect(child, pieces)
