"""Rows of tables can be read alone, in docx and in Markdown; a header is repeated only where there is one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.oxml import OxmlElement
from docx.oxml.ns import qn

from rag.loaders import load
from rag.readers.table import table_lines

PRICES = [["Product", "Price", "Stock"], ["Compass", "12 euro", ""], ["Sextant", "340 euro", "7"]]
PLAIN = "Product | Price | Stock\nCompass | 12 euro | \nSextant | 340 euro | 7"
NAMED = "Product: Compass | Price: 12 euro\nProduct: Sextant | Price: 340 euro | Stock: 7"


def mark_as_header(row: Any) -> None:
    row._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))


def make_bold(row: Any) -> None:
    for cell in row.cells:
        cell.paragraphs[0].runs[0].bold = True


def text_of(path: Path, document: Any) -> str:
    buffer = io.BytesIO()
    document.save(buffer)
    path.write_bytes(buffer.getvalue())
    (part,) = load(path, "a.docx")
    return part.page_content


def with_table(rows: Sequence[Sequence[str]]) -> Any:
    document = docx.Document()
    table = document.add_table(rows=len(rows), cols=len(rows[0]))
    for row, texts in zip(table.rows, rows, strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.paragraphs[0].add_run(text)
    return document


@pytest.mark.parametrize("mark", [mark_as_header, make_bold])
def test_docx_repeats_the_names_of_a_header_row(tmp_path: Path, mark: Any) -> None:
    document = with_table(PRICES)
    mark(document.tables[0].rows[0])
    assert text_of(tmp_path / "file", document) == NAMED


def test_docx_without_a_header_row_gives_its_rows_as_they_are(tmp_path: Path) -> None:
    assert text_of(tmp_path / "file", with_table(PRICES)) == PLAIN


def test_docx_says_what_is_merged_over_several_rows_in_each_of_them(tmp_path: Path) -> None:
    rows = [
        ["Country", "Class", "Days"],
        ["Norway", "A", "28"],
        ["", "B", "30"],
        ["Sweden", "A", "25"],
        ["All", "", "27"],
    ]
    document = with_table(rows)
    table = document.tables[0]
    make_bold(table.rows[0])
    table.cell(1, 0).merge(table.cell(2, 0))
    table.cell(4, 0).merge(table.cell(4, 1))
    assert text_of(tmp_path / "file", document).split("\n") == [
        "Country: Norway | Class: A | Days: 28",
        "Country: Norway | Class: B | Days: 30",
        "Country: Sweden | Class: A | Days: 25",
        "All | 27",
    ]


@pytest.mark.parametrize(
    ("style", "look", "text"),
    [
        ("Light List Accent 1", {"firstRow": "1"}, NAMED),
        ("Light List Accent 1", {"val": "04A0"}, NAMED),
        ("Light List Accent 1", {"firstRow": "0"}, PLAIN),
        ("Light List Accent 1", {"val": "what?"}, PLAIN),
        ("Table Grid", {"firstRow": "1"}, PLAIN),  # which has lines and no first row of its own
    ],
)
def test_docx_has_a_header_row_where_the_style_sets_it_apart(
    tmp_path: Path, style: str, look: dict[str, str], text: str
) -> None:
    document = with_table(PRICES)
    table = document.tables[0]
    table.style = style
    properties = table._tbl.tblPr
    for old in properties.findall(qn("w:tblLook")):
        properties.remove(old)
    properties.append(OxmlElement("w:tblLook", {qn(f"w:{name}"): value for name, value in look.items()}))
    assert text_of(tmp_path / "file", document) == text


def test_docx_in_bold_all_over_has_no_header(tmp_path: Path) -> None:
    document = with_table(PRICES)
    for row in document.tables[0].rows:
        make_bold(row)
    assert text_of(tmp_path / "file", document) == PLAIN


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | |", "a: 1 | b: 2\na: 3"),
        ("a | b\n--- | ---\n1 | 2\n\nafter", "a: 1 | b: 2\n\nafter"),
        ("before\n\n| a \\| b |\n|---|\n| x \\| y |", "before\n\na | b: x | y"),
        ("| no | table |", "| no | table |"),
        ("| no | table |\n|---|\n", "| no | table | |---|"),
    ],
    ids=["outer borders", "no outer borders", "escaped", "no rule", "rule of another width"],
)
def test_tables_of_markdown(tmp_path: Path, markdown: str, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(markdown)
    (part,) = load(file, "a.md")
    assert part.page_content == text


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([["Country", "Days"]], "Country | Days"),
        ([["", "Days"], ["Norway", "28"]], "Norway | Days: 28"),
        ([["Country", "Days"], ["", ""], ["Norway", "28"]], "Country: Norway | Days: 28"),
        ([["Country", "Days"], ["all of them together"]], "all of them together"),
        ([["x" * 121], ["1"]], "x" * 121 + "\n1"),
        ([], ""),
    ],
    ids=["header alone", "column without a name", "empty row", "merged row", "long header", "nothing"],
)
def test_rows_that_do_not_fit_their_header(rows: list[list[str]], text: str) -> None:
    assert table_lines(rows, has_header=True) == text
