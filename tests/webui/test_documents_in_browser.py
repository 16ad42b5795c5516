"""The LangChain tab in a real browser: from four uploaded files to an answer that names its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import documents
from tests.browser import Visit, Window
from tests.running_server import StartServer
from tests.scripted_engine import NAME, scripted_engine

FILES = {
    "lighthouse.pdf": documents.english_pdf(),
    "handbook.md": documents.MARKDOWN.encode(),
    "报告.docx": documents.docx(),
    "notes.txt": "The ferry to the island leaves at half past nine from the northern pier.".encode("utf-16"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for name, data in FILES.items():
        (tmp_path / "mine" / name).write_bytes(data)
    (tmp_path / "mine" / "locked.pdf").write_bytes(documents.password_pdf())
    return tmp_path / "mine"


def _create_base(window: Window, name: str) -> None:
    page = window.page
    page.click("#manage > button")
    page.fill("#new-base input, #new-base textarea", name)
    page.click("#create-base")
    page.wait_for_function("name => document.querySelector('#base input').value === name", arg=name)


def _vectorize(window: Window, *paths: Path) -> None:
    page = window.page
    page.set_input_files("#upload input[type=file]", [str(path) for path in paths])
    for path in paths:
        page.locator("#upload", has_text=path.stem).wait_for()
    page.click("#vectorize")


def _wait_for_rows(window: Window, count: int) -> dict[str, str]:
    """Wait until this many documents have an outcome; what each row says, by name."""
    page = window.page
    page.wait_for_function(
        "count => document.querySelectorAll('#files .q-searchable, #files .q-failed').length === count",
        arg=count, timeout=90_000,
    )  # fmt: skip
    return {
        row.locator(".q-file-name").inner_text(): row.locator(".q-file-result").inner_text()
        for row in page.locator("#files .q-file").all()
    }


def test_from_upload_to_an_answer_with_its_source(start_server: StartServer, visit: Visit, folder: Path) -> None:
    server = start_server()
    window = visit(server.url)
    page = window.page
    window.tab("LangChain")
    page.locator("#quote-mode", has_text="Quote mode").wait_for()

    _create_base(window, "Field notes 笔记")
    _vectorize(window, *folder.iterdir())
    rows = _wait_for_rows(window, 5)
    assert rows["lighthouse.pdf"] == "3 pages, 3 passages, searchable"
    assert all(rows[name].endswith("searchable") for name in FILES)
    assert rows["locked.pdf"].startswith("failed: ")
    assert "password" in rows["locked.pdf"]
    assert not list((server.data_dir / "uploads").rglob("*.pdf")), "an upload stayed behind"

    window.ask("langchain", "Who was the keeper of the lighthouse?")
    answer = window.wait_for_answer("langchain")
    assert "Mara Venn" in answer
    source = page.locator("#langchain-window .q-source").first
    expect(source.locator(".q-file-name")).to_have_text("lighthouse.pdf")
    expect(source.locator(".q-page")).to_have_text("page 2")
    expect(source.locator(".q-score")).to_contain_text("match ")
    passage = source.locator(".q-passage")
    expect(passage).to_be_hidden()
    source.locator("summary").click()
    expect(passage).to_be_visible()
    expect(passage).to_contain_text("wrote down the weather every morning")

    window.ask("langchain", "When does the ferry leave?")
    page.locator("#langchain-window", has_text="half past nine").wait_for()
    window.wait_for_answer("langchain")
    expect(page.locator("#langchain-window .q-source").last.locator(".q-file-name")).to_have_count(1)

    page.reload()  # what became of the files is in the database, not in the page
    window.tab("LangChain")
    page.locator("#base input").wait_for()
    assert _wait_for_rows(window, 5) == rows

    page.click("#manage > button")
    page.click("#chosen-file input")
    page.get_by_role("option", name="locked.pdf").click()
    page.click("#remove-file")
    assert "locked.pdf" not in _wait_for_rows(window, 4)

    page.click("#delete-base")
    page.locator("#delete-sure", has_text="Field notes 笔记").wait_for()
    page.click("#delete-yes")
    page.locator("#files", has_text="No documents here yet").wait_for()
    assert server.get("/api/knowledge-bases").json() in ([], {"knowledge_bases": []})


def test_the_page_in_chinese(start_server: StartServer, visit: Visit, folder: Path) -> None:
    (folder / "手册.pdf").write_bytes(documents.chinese_pdf())
    server = start_server()
    window = visit(server.url, "zh-CN")
    page = window.page
    assert page.url.endswith("/zh")
    page.locator("#chat-notice", has_text="还没有加载语言模型").wait_for()
    window.tab("LangChain")
    _vectorize(window, folder / "手册.pdf", folder / "locked.pdf")  # without a knowledge base of one's own
    rows = _wait_for_rows(window, 2)
    assert rows["手册.pdf"].endswith("可检索")
    assert rows["手册.pdf"].startswith("2 页")
    assert "密码" in rows["locked.pdf"]

    window.ask("langchain", "员工有多少天带薪年假？")
    answer = window.wait_for_answer("langchain")
    assert "十五天" in answer
    source = page.locator("#langchain-window .q-source").first
    expect(source.locator(".q-page")).to_have_text("第 2 页")
    source.locator("summary").click()
    expect(source.locator(".q-passage")).to_contain_text("十五天带薪年假")

    page.click("#language")  # the switch works both ways
    page.wait_for_url("**/?lang=en")
    page.locator("#chat-notice", has_text="No language model is loaded").wait_for()
    page.click("#language")
    page.wait_for_url("**/zh")


def test_the_page_can_be_used_while_files_are_vectorized(
    start_server: StartServer, visit: Visit, tmp_path: Path
) -> None:
    many = []
    for number in range(10):
        path = tmp_path / f"long-{number}.txt"
        path.write_text("\n\n".join(f"Paragraph {n} of file {number} is about harbours and boats." for n in range(60)))
        many.append(path)
    server = start_server()
    window = visit(server.url)
    page = window.page
    window.tab("LangChain")
    _vectorize(window, *many)
    page.locator("#files .q-working").first.wait_for()
    page.evaluate(
        """() => { window.changes = []; new MutationObserver(() => window.changes.push(Date.now()))
            .observe(document.querySelector('#files'), {subtree: true, childList: true, characterData: true,
                                                        attributes: true}) }"""
    )
    window.tab("Chat")
    window.ask("chat", "Are you there?")
    assert "No language model is loaded" in window.wait_for_answer("chat", timeout=30_000)
    window.tab("LangChain")
    rows = _wait_for_rows(window, 10)
    assert all(row.endswith("searchable") for row in rows.values())
    assert len(page.evaluate("window.changes")) >= 3


HOSTILE = "<img src=x onerror=window.__pwned=1><script>window.__pwned=1</script>"


def test_hostile_text_stays_text_everywhere(start_server: StartServer, visit: Visit, tmp_path: Path) -> None:
    document = tmp_path / "<img src=x onerror=window.__pwned=1>.md"
    document.write_text(
        f"# Zebras {HOSTILE}\n\nZebras live in the savanna {HOSTILE} ![x](http://127.0.0.2/x.png)\n\n"
        "<style>body { display: none }</style> [click](javascript:window.__pwned=1)\n"
    )
    server = start_server()
    window = visit(server.url)
    page = window.page
    window.ask("chat", f"{HOSTILE} ![x](http://127.0.0.2/y.png)\n\n<style>body {{ display: none }}</style>")
    window.wait_for_answer("chat")
    expect(page.locator("#chat-window .user.message")).to_contain_text("<script>")

    page.fill("#model-path input, #model-path textarea", f"/models/{HOSTILE}")
    page.click("#model-load")
    page.locator("#model-status .q-error").wait_for(timeout=60_000)

    window.tab("LangChain")
    _create_base(window, "a <b onclick=window.__pwned=1>base")
    page.set_input_files("#upload input[type=file]", str(document))
    page.locator("#upload .file-preview, #upload table").first.wait_for()
    page.click("#vectorize")
    rows = _wait_for_rows(window, 1)
    assert all(row.endswith("searchable") for row in rows.values())
    window.ask("langchain", "Where do zebras live?")
    answer = window.wait_for_answer("langchain")
    assert "savanna" in answer
    page.locator("#langchain-window .q-source summary").first.click()
    expect(page.locator("#langchain-window .q-passage").first).to_contain_text("<script>")
    page.click("#delete-base")
    page.locator("#delete-sure", has_text="<b onclick").wait_for()

    page.wait_for_timeout(500)
    assert page.evaluate("window.__pwned === undefined")
    assert page.locator("body").is_visible()
    assert page.locator("#chat-window img, #langchain-window img, #files img").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0


def test_the_passages_alone_are_an_answer_too(start_server: StartServer, visit: Visit, folder: Path) -> None:
    server = start_server()
    window = visit(server.url)
    window.tab("LangChain")
    _create_base(window, "Notes")
    _vectorize(window, folder / "handbook.md", folder / "notes.txt")
    _wait_for_rows(window, 2)
    window.page.locator("#answer-mode label", has_text="Documents only").click()
    window.ask("langchain", "When does the ferry to the island leave?")
    answer = window.wait_for_answer("langchain")
    assert "notes.txt" in answer
    assert "The ferry to the island leaves at half past nine from the northern pier." in answer


def test_a_thought_about_documents_is_folded_away_too(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine() as engine:
        engine.script = ("<think>\nThe first passage", " says it.\n</think>\n\n", "From the northern pier [1].")
        server = start_server("--engine-url", engine.url, "--model-path", NAME)
        server.wait_for_model()
        with server.client() as client:
            client.post("/api/knowledge-bases", json={"name": "ferries"}).raise_for_status()
            files = [("files", ("notes.txt", FILES["notes.txt"]))]
            client.post("/api/knowledge-bases/ferries/files?wait=true", files=files).raise_for_status()
        window = visit(server.url)
        window.page.locator("#now", has_text=NAME).wait_for()
        window.tab("LangChain")
        window.page.wait_for_function("() => document.querySelector('#base input').value === 'ferries'")
        window.ask("langchain", "Where does the ferry leave?")
        shown = window.page.locator("#langchain-window")
        expect(shown.locator(".bot.message").last).to_contain_text("From the northern pier")
        expect(shown.locator(".q-source")).to_have_count(1)
        thought = shown.locator(".thought-group", has_text="Thoughts")
        expect(thought).to_have_count(1)
        expect(thought.get_by_text("The first passage says it.")).to_be_hidden()
        thought.get_by_text("Thoughts").click()
        expect(thought.get_by_text("The first passage says it.")).to_be_visible()
        expect(shown).not_to_contain_text("think>")
