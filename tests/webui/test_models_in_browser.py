"""The model panel in a real browser, over real checkpoints: load by path, chat, switch, stop, unload."""

from __future__ import annotations

import time

from playwright.sync_api import expect

from tests import checkpoints
from tests.browser import Visit, Window
from tests.running_server import RunningServer, StartServer
from tests.scripted_engine import scripted_engine

QUESTION = "Who keeps the bees?"


def _ask(window: Window, question: str) -> str:
    window.ask("chat", question)
    return window.wait_for_answer("chat")


def _wait_until_idle(server: RunningServer, limit: float) -> None:
    deadline = time.monotonic() + limit
    while server.get("/api/status").json()["model"]["in_flight"]:
        assert time.monotonic() < deadline, f"the engine still answered after {limit} s"
        time.sleep(0.05)


def test_a_server_elsewhere_can_be_chosen_on_the_page(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine() as elsewhere:
        server = start_server("--engine-url", elsewhere.url)
        server.wait_for_model()
        window = visit(server.url)
        page = window.page
        page.locator("#model-status .q-state-ready").wait_for()
        page.click("#model-unload")
        page.locator("#model-status .q-state-empty").wait_for()
        page.fill("#model-path input, #model-path textarea", "")
        page.click("#model-options button")
        page.get_by_label("Backend").click()
        page.get_by_role("option", name="openai").click()
        page.click("#model-load")
        page.locator("#model-status .q-state-ready").wait_for()


def test_load_a_model_chat_switch_stop_and_clear(start_server: StartServer, visit: Visit) -> None:
    by_heart, other, endless = (
        str(make()) for make in (checkpoints.knows_by_heart, checkpoints.knows_other_answers, checkpoints.never_ends)
    )
    server = start_server()
    window = visit(server.url)
    page = window.page

    page.fill("#model-path input, #model-path textarea", by_heart)
    page.click("#model-load")
    page.locator("#model-status .q-state-wait", has_text="Loading").wait_for()
    page.locator("#model-status progress").wait_for()
    page.locator("#model-status .q-state-ready").wait_for(timeout=180_000)
    expect(page.locator("#chat-notice")).to_have_count(0)
    assert checkpoints.QUESTIONS[QUESTION] in _ask(window, QUESTION)
    assert checkpoints.QUESTIONS["绿湖有多深？"] in _ask(window, "绿湖有多深？")

    page.fill("#model-path input, #model-path textarea", "/no/such/model")
    page.click("#model-load")
    page.locator("#model-status .q-error", has_text="/no/such/model").wait_for()
    assert checkpoints.QUESTIONS[QUESTION] in _ask(window, QUESTION)  # the one in service goes on

    window.load(other)
    page.locator("#model-status .q-error").wait_for(state="detached")
    assert checkpoints.OTHER_ANSWERS[QUESTION] in _ask(window, QUESTION)

    window.load(endless)
    window.ask("chat", "Go on")
    page.locator("#chat-window .bot.message", has_text=checkpoints.ENDLESS.strip()).last.wait_for()
    page.click("#chat-question .stop-button")
    _wait_until_idle(server, limit=3.0)
    page.locator("#chat-window", has_text="Stopped.").wait_for()

    page.click("#chat-clear")
    page.locator("#chat-window .message").first.wait_for(state="detached")

    page.click("#model-log > button")
    expect(page.locator("#model-log textarea")).to_be_visible()
    page.click("#model-unload")
    page.locator("#chat-notice", has_text="No language model is loaded").wait_for(timeout=30_000)


def test_the_menu_fills_in_the_hub_id_and_says_what_it_needs(start_server: StartServer, visit: Visit) -> None:
    window = visit(start_server().url)
    page = window.page
    page.locator("#model-memory", has_text="free").wait_for()
    page.click("#model-menu input")
    options = page.get_by_role("option").all_inner_texts()
    for family in ("Qwen", "Llama", "ChatGLM", "Baichuan"):
        assert any(family in option for option in options)
    page.get_by_role("option", name="Baichuan2 13B").click()
    page.locator("#model-memory", has_text="30.8 GiB").wait_for()
    typed = page.locator("#model-path input, #model-path textarea")
    expect(typed).to_have_value("baichuan-inc/Baichuan2-13B-Chat")
