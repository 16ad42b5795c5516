"""From a file to its text: every format, and every way to refuse one."""

from __future__ import annotations

import io
import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from pypdf import PdfWriter

from rag.errors import UnreadableFile
from rag.loaders import load
from rag.readers import Limits
from tests import documents
from tests.shared_data import SHARED, requires_shared

Load = Callable[..., list[Document]]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """load() for bytes."""

    def read(name: str, content: bytes, **limits: Any) -> list[Document]:
        file = tmp_path / "3f9a1c"  # in the data folder a file has no name
        file.write_bytes(content)
        return load(file, name, limits=Limits(**limits))

    return read


def refusal(read: Load, name: str, content: bytes, **limits: Any) -> UnreadableFile:
    with pytest.raises(UnreadableFile) as caught:
        read(name, content, **limits)
    assert_plain(caught.value)
    return caught.value


def assert_plain(error: UnreadableFile) -> None:
    """One sentence with cause and remedy, nothing of the inside."""
    assert error.message.endswith(".")
    assert ":" in error.message or ";" in error.message
    assert len(error.message) < 200
    assert not any(word in error.message for word in ("Error", "Traceback", "/", "\\", "\n"))


# The documents that are handed over with what is expected of each


def manifest() -> list[dict[str, Any]]:
    file = SHARED / "docs" / "manifest.json"
    return json.loads(file.read_text())["files"] if file.is_file() else []


def folded(text: str) -> str:
    """As the manifest says phrases are to be compared."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf"))


@requires_shared
@pytest.mark.parametrize("entry", manifest(), ids=lambda entry: Path(entry["file"]).name)
def test_every_document_of_the_collection_comes_out_as_expected(entry: dict[str, Any]) -> None:
    file = SHARED / "docs" / entry["file"]
    if entry["outcome"] == "refusal":
        with pytest.raises(UnreadableFile) as caught:
            load(file, file.name)
        assert caught.value.reason == entry["reason"]
        assert_plain(caught.value)
        return
    assert entry["outcome"] == "text"
    text = "\n".join(document.page_content for document in load(file, file.name))
    assert all(folded(phrase) in folded(text) for phrase in entry["phrase"])
    assert "\0" not in text
    assert text.encode().decode() == text


# PDF


def test_a_pdf_gives_its_pages_without_header_and_footer(read: Load) -> None:
    pages = read("chronicle.pdf", documents.english_pdf())
    assert [page.metadata["page"] for page in pages] == [1, 2, 3]
    assert [page.page_content for page in pages] == list(documents.ENGLISH_PAGES)


def test_a_chinese_pdf_gives_its_lines_without_spaces_between(read: Load) -> None:
    pages = read("公司.PDF", documents.chinese_pdf())
    assert [page.page_content for page in pages] == list(documents.CHINESE_PAGES)


def test_a_number_that_counts_along_is_dropped_and_a_heading_is_not(read: Load) -> None:
    chapters = [f"Chapter {number}\n\nIt was night, and chapter {number} began." for number in (1, 2, 3, 4)]
    pages = read("book.pdf", documents.pdf(chapters, header="A book about lighthouses {page}", footer="- {page} -"))
    for number, page in enumerate(pages, start=1):
        assert page.page_content.startswith(f"Chapter {number}")
        assert page.page_content.endswith("began.")


def test_titles_above_the_pages_of_a_chapter_come_once(read: Load) -> None:
    """As in a book: the title of the book above the left pages, that of the chapter above the right ones."""
    tops = ["The Book of Bees", "How They Live", "The Book of Bees", "How They Fly"]
    pages = [
        f"{tops[2 * (number > 10) + number % 2]}\n\nOn day {number} the bees were counted again."
        for number in range(1, 21)
    ]
    texts = [page.page_content for page in read("bees.pdf", documents.pdf(pages))]
    times = {title: sum(title in text for text in texts) for title in tops}
    assert times == {"The Book of Bees": 0, "How They Live": 1, "How They Fly": 1}
    assert all(f"On day {number} the bees" in text for number, text in enumerate(texts, start=1))


def test_numbers_that_do_not_count_along_are_kept(read: Load) -> None:
    years = ["1871", "1903", "1932", "1980"]
    pages = read("years.pdf", documents.pdf([f"{year}\n\nSomething happened to the lighthouse." for year in years]))
    assert [page.page_content.split()[0] for page in pages] == years


def test_pages_that_are_all_alike_are_kept(read: Load) -> None:
    assert len(read("form.pdf", documents.pdf(["Please fill in this form."] * 4))) == 4


def test_pages_that_fail_are_left_out_and_counted(read: Load) -> None:
    content = documents.pdf([*documents.ENGLISH_PAGES, "The last page."])
    first, second, *others = content.split(b"ASCII85Decode")
    assert len(others) == 3
    # The text of the second page is said to be packed in a way that nobody knows.
    broken = b"ASCII85Decode".join([first, second]) + b"ASCII85Xecode" + b"ASCII85Decode".join(others)
    pages = read("damaged.pdf", broken)
    assert [page.metadata["page"] for page in pages] == [1, 3, 4]
    assert pages[0].metadata["note"] == "3 of 4 pages read"


def test_pages_that_are_pictures_are_counted_and_blank_ones_are_not(read: Load) -> None:
    writer = PdfWriter()
    for part in (documents.english_pdf(), documents.picture_pdf()):
        writer.append(io.BytesIO(part))
    writer.add_blank_page(200, 200)
    buffer = io.BytesIO()
    writer.write(buffer)
    pages = read("partly-scanned.pdf", buffer.getvalue())
    assert {page.metadata["note"] for page in pages} == {"4 of 6 pages read; 2 without text, only pictures"}


def test_a_pdf_without_a_password_to_open_it_is_read(read: Load) -> None:
    content = documents.pdf(documents.ENGLISH_PAGES, password="")
    assert read("open.pdf", content)[0].page_content == documents.ENGLISH_PAGES[0]


def test_a_pdf_with_a_password_is_refused(read: Load) -> None:
    assert refusal(read, "secret.pdf", documents.password_pdf()).reason == "encrypted"


def test_a_pdf_of_pictures_is_refused_with_advice(read: Load) -> None:
    error = refusal(read, "scan.pdf", documents.picture_pdf())
    assert error.reason == "no_text"
    assert "OCR" in error.message


def test_a_pdf_with_too_many_pages_is_refused(read: Load) -> None:
    error = refusal(read, "long.pdf", documents.english_pdf(), pdf_pages=2)
    assert (error.reason, "3 pages" in error.message) == ("too_large", True)


def test_a_page_that_inflates_too_far_is_not_read(read: Load) -> None:
    content = documents.pdf(["all work and no play " * 300])
    assert refusal(read, "bomb.pdf", content, pdf_stream=1_000).reason == "damaged"


def test_half_a_pdf_is_read_or_refused(read: Load) -> None:
    whole = documents.english_pdf()
    for share in (0.2, 0.5, 0.8):
        try:
            assert read("half.pdf", whole[: int(share * len(whole))])
        except UnreadableFile as error:
            assert_plain(error)


# Markdown, docx


def test_markdown_gives_sections_with_the_path_of_their_headings(read: Load) -> None:
    sections = {part.metadata["heading"]: part.page_content for part in read("a.md", documents.MARKDOWN.encode())}
    assert list(sections) == ["Handbook", "Handbook > Holidays", "Handbook > Code", "附录"]
    assert sections["Handbook"] == "Handbook\n\nEverything that is good to know in the first week."
    assert "Country: Norway | Days: 28\nCountry: Japan | Days: 20" in sections["Handbook > Holidays"]
    assert '```python\n# not a heading\ndef greet():\n    return "hello"\n```' in sections["Handbook > Code"]
    assert sections["附录"].endswith("员工手册由人事部负责更新。")


@pytest.mark.parametrize(
    ("markdown", "headings"),
    [
        ("Title\n=====\n\ntext\n\nPart\n---\n\nmore", ["Title", "Title > Part"]),
        ("# A\n### C\ntext\n## B\ntext", ["A > C", "A > B"]),
        ("# [Link](http://x) and **bold** `code` #\n\ntext", ["Link and bold code"]),
        ("no heading\n\n---\n\nafter a rule", [""]),
        ("```\n# never closed\n", [""]),
        ("#hashtag is text", [""]),
        ("# A\n\n# A\n\ntext", ["A", "A"]),
        ("# C# and F#\n\ntext", ["C# and F#"]),
        ("a paragraph\nof two lines\n---\nand a rule", [""]),
        ("---\ntitle: A\ndate: 2026-11-23\n---\n# B\n\ntext", ["", "B"]),
        ("a | b\n--|--\n1 | 2", [""]),
    ],
)
def test_what_is_a_heading_of_markdown(read: Load, markdown: str, headings: list[str]) -> None:
    assert [part.metadata["heading"] for part in read("a.md", markdown.encode())] == headings


def test_markdown_keeps_lists_and_drops_addresses_of_pictures(read: Load) -> None:
    (part,) = read("a.md", b"Bring\n\n- a lamp\n- a rope\n\n![a lighthouse](http://192.0.2.1/track.png)")
    assert part.page_content == "Bring\n\n- a lamp\n- a rope\n\na lighthouse"


def test_docx_gives_sections_and_tables(read: Load) -> None:
    sections = {part.metadata["heading"]: part.page_content for part in read("a.docx", documents.docx())}
    assert sections == {
        "Products": "Products\n\nEverything we sell is made in Bergen.",
        "Products > Prices": "Prices\n\nProduct | Price\nPaper compass | 12 euro\nBrass sextant | 340 euro",
        "售后服务": "售后服务\n\n所有产品保修两年。",
    }


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx_with_body(body: str, doctype: str = "") -> bytes:
    xml = f'<?xml version="1.0"?>{doctype}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    return documents.with_parts(documents.docx(), {"word/document.xml": xml.encode()})


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (f"<w:sdt><w:sdtContent>{paragraph('in a control')}</w:sdtContent></w:sdt>", "in a control"),
        (f"<w:p><w:r><w:pict><w:txbxContent>{paragraph('in a box')}</w:txbxContent></w:pict></w:r></w:p>", "in a box"),
        ("<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:t>old</w:t></w:r></w:del></w:p>", "new"),
        ("<w:p><w:r><w:t>one</w:t><w:br/><w:t>two</w:t><w:tab/><w:t>three</w:t></w:r></w:p>", "one\ntwo\tthree"),
        (f"<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc>{paragraph('x')}</w:tc></w:tr></w:tbl></w:tc></w:tr></w:tbl>", "x"),
    ],
    ids=["content control", "text box", "tracked changes", "breaks and tabs", "table in a table"],
)
def test_docx_text_in_less_common_places_is_found(read: Load, body: str, text: str) -> None:
    (part,) = read("a.docx", docx_with_body(body))
    assert part.page_content == text


def test_docx_footnotes_are_found(read: Load) -> None:
    relationship = (
        '<Relationship Id="rId99" Target="footnotes.xml" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
        'relationships/footnotes"/></Relationships>'
    )
    with zipfile.ZipFile(io.BytesIO(documents.docx())) as package:
        links = package.read("word/_rels/document.xml.rels").decode().replace("</Relationships>", relationship)
    notes = f'<w:footnotes xmlns:w="{W}"><w:footnote>{paragraph("Measured in 1871.")}</w:footnote></w:footnotes>'
    parts = {"word/_rels/document.xml.rels": links.encode(), "word/footnotes.xml": notes.encode()}
    last = read("a.docx", documents.with_parts(documents.docx(), parts))[-1]
    assert (last.page_content, last.metadata["heading"]) == ("Measured in 1871.", "")


def test_docx_tells_of_files_within_it_that_are_not_read(read: Load) -> None:
    (part,) = read("a.docx", docx_with_body(paragraph("text") + "<w:altChunk/>"))
    assert part.metadata["note"] == "embedded files not read: 1"


def test_docx_with_a_doctype_is_refused(read: Load) -> None:
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    error = refusal(read, "a.docx", docx_with_body(paragraph("&b;"), laughs))
    assert error.reason == "unsafe"


def test_the_name_of_a_part_does_not_hide_what_is_in_it(read: Load) -> None:
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha">]><x>&a;</x>'
    content = documents.with_parts(documents.docx(), {"word/picture.png": laughs})
    assert refusal(read, "a.docx", content).reason == "unsafe"


def test_pictures_are_no_offence(read: Load) -> None:
    content = documents.with_parts(documents.docx(), {"word/media/image1.bmp": bytes(1_000_000)})
    assert len(read("a.docx", content)) == 3


def test_docx_with_too_many_paragraphs_is_refused_before_it_is_built(read: Load) -> None:
    # Numbered, so that it is not packed suspiciously well.
    body = "".join(paragraph(str(number * 7919)) for number in range(200_001))
    error = refusal(read, "a.docx", docx_with_body(body))
    assert (error.reason, "200,000" in error.message) == ("unsafe", True)


@pytest.mark.parametrize(
    "limits",
    [{"docx_members": 5}, {"docx_inflated": 10_000}, {"docx_xml": 10_000}, {"docx_ratio": 1}, {"docx_elements": 5}],
)
def test_each_limit_of_docx_is_kept(read: Load, limits: dict[str, int]) -> None:
    assert refusal(read, "a.docx", documents.docx(), **limits).reason == "unsafe"


def test_a_small_docx_that_inflates_far_is_refused(read: Load) -> None:
    content = documents.inflating_docx()
    assert len(content) < 2_000_000
    error = refusal(read, "a.docx", content)
    assert (error.reason, "100 MB" in error.message) == ("unsafe", True)


def test_a_docx_with_many_photographs_is_read(read: Load) -> None:
    content = documents.with_parts(documents.docx(), {"word/media/photo.jpeg": b"\xff\xd8" + bytes(120_000_000)})
    assert len(read("a.docx", content)) == 3


def test_docx_with_two_parts_of_one_name_is_refused(read: Load) -> None:
    buffer = io.BytesIO(documents.docx())
    with zipfile.ZipFile(buffer, "a") as package, pytest.warns(UserWarning, match="Duplicate"):
        package.writestr("word/document.xml", "<x/>")
    assert refusal(read, "a.docx", buffer.getvalue()).reason == "unsafe"


@pytest.mark.parametrize("damage", [(b"<w:body", b"<w:nobody"), (b'encoding="UTF-8"', b'encoding="UTF-9"')])
def test_docx_with_broken_xml_is_refused(read: Load, damage: tuple[bytes, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(documents.docx())) as package:
        xml = package.read("word/document.xml").replace(b"standalone='yes'", b"").replace(b"'", b'"')
    assert damage[0] in xml
    broken = xml.replace(*damage).replace(b"</w:body", b"</w:nobody" if b"body" in damage[1] else b"</w:body")
    content = documents.with_parts(documents.docx(), {"word/document.xml": broken})
    assert refusal(read, "a.docx", content).reason == "damaged"


def test_broken_docx_is_refused(read: Load) -> None:
    whole = documents.docx()
    for content in (whole[:2_000], whole[:-200], b"PK\x03\x04" + bytes(500)):
        assert refusal(read, "a.docx", content).reason == "damaged"


def test_a_zip_that_is_not_a_docx_is_refused(read: Load) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr("hello.txt", "hello")
    assert refusal(read, "a.docx", buffer.getvalue()).reason == "damaged"


# What is refused by name or at first sight


@pytest.mark.parametrize("name", ["a.xlsx", "a.html", "a", "pdf", ".pdf", "a.pdf.exe", "..", "a/b.txt/c", "a.TXT\x00"])
def test_other_kinds_of_files_are_refused_with_the_four_that_are_read(read: Load, name: str) -> None:
    with pytest.raises(UnreadableFile, match="txt, md, docx or pdf") as caught:
        read(name, b"hello")
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("name", ["old.doc", "old.docx"])
def test_an_old_word_file_is_refused_with_advice(read: Load, name: str) -> None:
    error = refusal(read, name, documents.old_doc())
    assert (error.reason, "save it as .docx" in error.message) == ("unsupported", True)


def test_a_docx_with_a_password_is_refused(read: Load) -> None:
    assert refusal(read, "a.docx", documents.encrypted_docx()).reason == "encrypted"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", documents.english_pdf(), "rename it to end in .pdf"),
        ("a.docx", documents.english_pdf(), "rename it to end in .pdf"),
        ("a.md", documents.docx(), "a zip archive"),
        ("a.pdf", documents.docx(), "a zip archive"),
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture"),
        ("a.pdf", b"this is no PDF at all, only its name is", "cannot be read as a PDF"),
        ("a.docx", b"plain text", "cannot be read as a Word document"),
    ],
)
def test_content_that_does_not_fit_the_name_is_refused(read: Load, name: str, content: bytes, says: str) -> None:
    error = refusal(read, name, content)
    assert (error.reason, says in error.message) == ("damaged", True)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.docx", "a.pdf"])
def test_an_empty_file_is_refused(read: Load, name: str) -> None:
    assert refusal(read, name, b"").reason == "empty"


def test_white_space_is_no_text(read: Load) -> None:
    assert refusal(read, "a.txt", b" \n\n\t\n").reason == "no_text"


def test_a_file_over_the_limit_is_refused(read: Load) -> None:
    error = refusal(read, "a.txt", b"x" * (2 * 2**20), file=2**20)
    assert (error.reason, "limit is 1 MiB" in error.message) == ("too_large", True)


def test_a_document_with_too_much_text_is_refused(read: Load) -> None:
    assert refusal(read, "a.docx", documents.docx(), characters=20).reason == "too_large"


@pytest.mark.parametrize("between", ["\n\n", " "])
def test_a_very_long_text_comes_whole_in_parts_that_end_with_a_paragraph(read: Load, between: str) -> None:
    text = between.join(f"Paragraph {n} says {'something ' * 30}and ends." for n in range(1_600))
    parts = [document.page_content for document in read("long.txt", text.encode())]
    assert len(parts) > 2
    assert max(map(len, parts)) < len(text) / 2
    assert "".join(parts) == text
    if between == "\n\n":
        assert all(part.rstrip().endswith("and ends.") for part in parts)
