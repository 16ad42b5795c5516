"""The door in front of the page: languages, and what stays shut."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from webui.door import PageDoor, shut


@pytest.fixture
def browser() -> TestClient:
    async def inside(request: Request) -> PlainTextResponse:
        return PlainTextResponse("inside")

    return TestClient(PageDoor(Starlette(routes=[Route("/{path:path}", inside)])), follow_redirects=False)


def test_a_chinese_browser_is_led_to_the_chinese_page_once(browser: TestClient) -> None:
    chinese = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}
    led = browser.get("/", headers=chinese)
    assert (led.status_code, led.headers["location"]) == (302, "./zh")
    assert led.headers["vary"] == "Accept-Language"
    assert browser.get("/zh", headers=chinese).text == "inside"
    assert browser.get("/?lang=en", headers=chinese).text == "inside"
    assert browser.get("/", headers={"Accept-Language": "en,zh;q=0.5"}).text == "inside"
    assert browser.get("/").text == "inside"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/call/send", "/gradio_api/call/v2/send", "/gradio_api/api/predict", "/gradio_api/info",
        "/gradio_api/file=/etc/hostname", "/gradio_api/proxy=http://x", "/gradio_api/runs", "/gradio_api/deep_link",
        "/gradio_api/run-history/connect", "/gradio_api/process_recording", "/gradio_api/vibe-edit",
        "/gradio_api/stream/x", "/gradio_api/component_server", "/gradio_api/mcp", "/monitoring", "/monitoring/summary",
        "/login", "/gradio_api/", "/gradio_api//call/send",
    ],
)  # fmt: skip
def test_doors_that_nobody_uses_are_shut(browser: TestClient, path: str) -> None:
    assert shut(path)
    assert browser.get(path).status_code == 404
    assert browser.post(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/upload", "/theme.css", "/config", "/assets/x.js"]
)
def test_the_page_gets_what_it_needs(browser: TestClient, path: str) -> None:
    assert browser.get(path).text == "inside"
