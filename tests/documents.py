"""Makes documents of every kind Quartet reads, and of some it refuses, for tests. Every function returns the bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

ENGLISH_PAGES = (
    "The lighthouse at Cape Arlen was built in 1871 from grey granite. Its lamp burned rape oil until 1903.",
    "The keeper of the lighthouse was called Mara Venn. She wrote down the weather every morning for forty years.",
    "In 1932 the lamp was electrified. Since then nobody has lived on the cape, and the house is a museum today.",
)
CHINESE_PAGES = (
    "星河公司成立于二〇〇三年，总部设在杭州。公司的主要产品是温度传感器。",
    "员工每年享有十五天带薪年假。请假需要提前三天向部门经理提出申请。",
)
MARKDOWN = """# Handbook

Everything that is good to know
in the first week.

## Holidays

Every employee has 28 days of paid holiday a year.

| Country | Days |
| --- | --- |
| Norway | 28 |
| Japan | 20 |

## Code

```python
# not a heading
def greet():
    return "hello"
```

# 附录

员工手册由人事部
负责更新。
"""


def pdf(
    pages: Sequence[str], header: str = "", footer: str = "", password: str | None = None, font: str = "Helvetica"
) -> bytes:
    """A PDF with one page for each text, wrapped at 70 columns. `{page}` in header and footer is the page number.
    With a password, nobody opens it without; "" encrypts it and lets everybody in."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    if font == "STSong-Light":
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    encryption = None if password is None else StandardEncryption(password, ownerPassword="owner", strength=128)
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, encrypt=encryption)
    for number, text in enumerate(pages, start=1):
        canvas.setFont(font, 11)
        if header:
            canvas.drawString(72, 800, header.format(page=number))
        for row, line in enumerate(_wrapped(text)):
            canvas.drawString(72, 760 - 16 * row, line)
        if footer:
            canvas.drawString(72, 40, footer.format(page=number))
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def english_pdf() -> bytes:
    """Three pages, ENGLISH_PAGES, each with the same header and a page number."""
    return pdf(ENGLISH_PAGES, header="Chronicle of Cape Arlen", footer="Page {page} of 3")


def chinese_pdf() -> bytes:
    """Two pages, CHINESE_PAGES."""
    return pdf(CHINESE_PAGES, font="STSong-Light")


def password_pdf() -> bytes:
    """Opens with the password "sesame" only."""
    return pdf(ENGLISH_PAGES, password="sesame")


def picture_pdf() -> bytes:
    """Two pages that hold a picture each and no text, like a scan."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    # A grey picture of 2 x 2 in the simplest format there is.
    picture = ImageReader(io.BytesIO(b"P5 2 2 255\n" + bytes([0, 90, 180, 255])))
    buffer = io.BytesIO()
    canvas = Canvas(buffer, invariant=1)
    for _ in range(2):
        canvas.drawImage(picture, 100, 100, 300, 300)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def docx() -> bytes:
    """Two chapters, a section, and a table of prices."""
    document = _new_docx()
    document.add_heading("Products", level=1)
    document.add_paragraph("Everything we sell is made in Bergen.")
    document.add_heading("Prices", level=2)
    table = document.add_table(rows=0, cols=2)
    for name, price in (("Product", "Price"), ("Paper compass", "12 euro"), ("Brass sextant", "340 euro")):
        cells = table.add_row().cells
        cells[0].text, cells[1].text = name, price
    document.add_heading("售后服务", level=1)
    document.add_paragraph("所有产品保修两年。")
    return _saved(document)


def inflating_docx(megabytes: int = 120) -> bytes:
    """A small file whose text unpacks to that many MB, at a ratio that no single part gives away."""
    document = _new_docx()
    document.add_paragraph("harmless")
    # Numbers between the spaces: varied enough to stay under 200:1.
    line = 1_200 * b" "
    numbers = (n * 7919 % 100_003 for n in range(megabytes * 100_000 // len(line)))
    part = b"<x>" + b"".join(b"<!-- %d -->%b" % (number, line) for number in numbers) + b"</x>"
    return with_parts(_saved(document), {f"word/extra{n}.xml": part for n in range(10)})


def with_parts(package: bytes, parts: dict[str, bytes]) -> bytes:
    """The docx `package` with some parts replaced or added."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in parts:
                new.writestr(name, old.read(name))
        for name, content in parts.items():
            new.writestr(name, content)
    return buffer.getvalue()


def old_doc() -> bytes:
    """How a Word file of before 2007 begins."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "WordDocument".encode("utf-16-le") + bytes(1000)


def encrypted_docx() -> bytes:
    """How a docx with a password begins: the container of old, with the package in it."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(1000)


def _wrapped(text: str, width: int = 70) -> list[str]:
    import textwrap

    if text.isascii():
        return [line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""]]
    return [text[at : at + width // 2] for at in range(0, len(text), width // 2)]


def _new_docx() -> Any:
    from docx import Document

    return Document()


def _saved(document: Any) -> bytes:
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()
