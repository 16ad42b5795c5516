"""A headless Chromium for tests and screenshots, and the page in it; knows nothing of what is tested."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No feature of the browser itself may call home: then every request to another host comes from the page.
QUIET = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def executable() -> str:
    """The installed Chromium. Fails with the one line that says what to install."""
    for name in (os.environ.get("QUARTET_CHROMIUM", ""), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    raise AssertionError("The browser tests need Chromium: install the package chromium or set QUARTET_CHROMIUM.")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser; it ends with the block."""
    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=[*QUIET, *as_root])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """A window with Quartet's page, and what it should not have done."""

    page: Page
    url: str
    foreign: list[str] = field(default_factory=list)  # requests to other hosts
    errors: list[str] = field(default_factory=list)  # of the page's scripts

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def ask(self, dialogue: str, question: str) -> None:
        """Type a question into the conversation "chat" or "langchain", send it, and see it taken."""
        asked = self.page.locator(f"#{dialogue}-window .user.message")
        before = asked.count()
        self.page.fill(f"#{dialogue}-question textarea", question)
        self.page.click(f"#{dialogue}-question .submit-button")
        asked.nth(before).wait_for()

    def wait_for_answer(self, dialogue: str, timeout: float = 60_000) -> str:
        """Wait until an answer is complete (milliseconds at most); the text of the last one, with its sources."""
        self.page.wait_for_selector(f"#{dialogue}-question .submit-button", timeout=timeout)
        return self.last_answer(dialogue)

    def last_answer(self, dialogue: str) -> str:
        return self.page.locator(f"#{dialogue}-window .bot.message").last.inner_text()

    def load(self, model_path: str, timeout: float = 180_000) -> None:
        """Load a model by its path in the model panel and wait until it is in service."""
        self.page.fill("#model-path input, #model-path textarea", model_path)
        self.page.click("#model-load")
        name = model_path.rstrip("/").rsplit("/", 1)[-1]
        self.page.locator("#model-status .q-state-ready + .q-model", has_text=name).wait_for(timeout=timeout)
        self.page.wait_for_selector("#model-load:not([disabled])")


Visit = Callable[..., Window]  # the fixture of this name: (url, locale=..., **context) -> Window


def open_window(browser: Browser, url: str, locale: str = "en-US", **context: Any) -> Window:
    """Open the page in a fresh profile and wait until it can be used."""
    page = browser.new_context(locale=locale, **context).new_page()
    window = Window(page, url)
    host = urlsplit(url).netloc
    page.on("request", lambda request: _note_foreign(window, request.url, host))
    page.on("pageerror", lambda error: window.errors.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#chat-question textarea", timeout=60_000)
    return window


def _note_foreign(window: Window, url: str, host: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("data", "blob", "about") and parts.netloc != host:
        window.foreign.append(url)
