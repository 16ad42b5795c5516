"""The HTML of rows, sources and progress: our tags and nothing else, whatever the values hold."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Progress
from rag.types import FileRecord, Hit, Source
from webui import markup
from webui.texts import CHINESE, ENGLISH

RECORD = FileRecord("0" * 32, "handbook.pdf", "searchable", 10, 12, 48, 1.0, "", "", "2026-11-23T03:00:00Z")
HIT = Hit("p1", "Refunds take 30 days.", 0.824, "handbook.pdf", "f1", 3, "Refunds")
HOSTILE = [
    "<script>window.__pwned = 1</script>",
    '"><img src=x onerror="window.__pwned = 1">',
    "</div></details><style>body { display: none }</style>",
    "[click](javascript:alert(1)) ![x](http://evil/x.png) <http://evil>",
    "```\n<b>\n```\n\n# heading\n\n| a | b |",
    "$$\\href{javascript:alert(1)}{x}$$ ${7*7} {{7*7}}",
    "&lt;b&gt; &amp;",
]
OURS = {"div", "span", "details", "summary", "progress", "br"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.depth += tag != "br"
        if tag == "br":
            self.text += "\n"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(html: str) -> _Reader:
    assert "\n" not in html, "a line end would let Markdown in again"
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert {tag for tag, _ in reader.tags} <= OURS
    assert {name for _, attributes in reader.tags for name in attributes} <= {"class", "max", "value"}
    assert reader.depth == 0
    return reader


def test_a_finished_document_says_what_can_be_found_in_it() -> None:
    assert markup.result(RECORD, ENGLISH) == "12 pages, 48 passages, searchable"
    assert markup.result(replace(RECORD, pages=1, passages=1), ENGLISH) == "1 page, 1 passage, searchable"
    assert markup.result(replace(RECORD, pages=None), ENGLISH) == "48 passages, searchable"
    assert markup.result(RECORD, CHINESE) == "12 页\uff0c48 个段落\uff0c可检索"


def test_a_failed_document_says_why() -> None:
    failed = replace(RECORD, state="failed", reason="encrypted", error="It is locked; remove the password.")
    assert markup.result(failed, ENGLISH) == "failed: It is locked; remove the password."
    assert markup.result(failed, CHINESE).startswith("失败\uff1a文件有密码")
    assert markup.result(replace(failed, reason="new", error=""), CHINESE).endswith("new")


@pytest.mark.parametrize(
    ("state", "progress", "text", "bar"),
    [
        ("uploaded", 0.0, "Waiting", None),
        ("parsing", 0.254, "Reading 25%", "25"),
        ("embedding", 1.5, "Vectorizing 100%", "100"),
        ("embedding", -1.0, "Vectorizing 0%", "0"),
    ],
)
def test_a_document_under_way_shows_how_far_it_is(state: str, progress: float, text: str, bar: str | None) -> None:
    reader = _read(markup.files([replace(RECORD, state=state, progress=progress)], ENGLISH))
    assert text in reader.text
    bars = [attributes["value"] for tag, attributes in reader.tags if tag == "progress"]
    assert bars == ([bar] if bar else [])


def test_a_source_names_file_page_and_score_and_holds_its_passage() -> None:
    html = markup.sources((Source(1, HIT, HIT.text),), ENGLISH)
    summary, passage = html.split("</summary>")
    assert _read(summary + "</summary></details></div>").text == "Sources1handbook.pdfpage 3match 82%"
    assert "Refunds take 30 days." in _read("<div><details>" + passage).text
    assert "page" not in _read(markup.sources((Source(1, replace(HIT, page=None), HIT.text),), ENGLISH)).text


def test_a_source_shows_what_the_model_read_around_its_passage() -> None:
    read = f"<b>Returns.</b> {HIT.text} Ask at the desk."
    html = markup.sources((Source(1, HIT, read),), ENGLISH)
    assert _read(html).text.endswith(read)
    assert html.count('<span class="q-around">') == 2


def test_an_answer_without_passages_says_so() -> None:
    assert "No passage" in _read(markup.sources((), ENGLISH)).text
    assert "No documents" in _read(markup.files([], ENGLISH)).text


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_text(value: str) -> None:
    hit = replace(HIT, text=value, file=value, heading=value)
    one_line = " ".join(value.split())
    assert value in _read(markup.sources((Source(1, hit, hit.text),), ENGLISH)).text
    row = replace(RECORD, name=value, state="failed", error=value)
    assert one_line in _read(markup.files([row], ENGLISH)).text
    assert one_line in _read(markup.progress(Progress("downloading", 1, 2, value), ENGLISH)).text
    assert one_line in _read(markup.progress(Progress(value), CHINESE)).text


@given(st.text())
def test_escaped_text_reads_back_as_it_was(text: str) -> None:
    escaped = markup.escape(text)
    assert not set(escaped.replace("<br>", "")) & set("<>\"'`*_[]{}$|~!\n\r")
    assert _read(escaped).text == "\n".join(text.splitlines()).replace("\0", "\ufffd") or "\0" in text


def test_a_load_of_unknown_length_only_shows_that_it_goes_on() -> None:
    reader = _read(markup.progress(Progress("loading"), ENGLISH))
    assert reader.tags[-1] == ("progress", {})
    assert "%" not in reader.text
