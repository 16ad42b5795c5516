"""The Chat tab in a real browser, over an engine that follows a script and counts what it makes."""

from __future__ import annotations

import time

from playwright.sync_api import expect

from tests.browser import Visit
from tests.running_server import StartServer
from tests.scripted_engine import NAME, ScriptedEngine, scripted_engine

# Seconds. The promise is one; the tests share their two cores with each other and with a browser.
STOP_LIMIT = 3.0


def _stands_still(engine: ScriptedEngine, seconds: float) -> bool:
    before = engine.made
    time.sleep(seconds)
    return engine.made == before


def test_an_answer_streams_and_can_be_stopped_retried_and_cleared(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine(words=100_000, seconds_per_word=0.02) as engine:
        server = start_server("--engine-url", engine.url, "--model-path", NAME)
        server.wait_for_model()
        window = visit(server.url)
        page = window.page
        page.locator("#now", has_text=NAME).wait_for()

        window.ask("chat", "Count for me")
        page.locator("#chat-window .bot.message", has_text="word5 ").wait_for()
        assert "word60 " not in window.last_answer("chat")  # it comes piece by piece
        page.locator("#chat-window .bot.message", has_text="word60 ").wait_for()
        expect(page.locator("#chat-window .user.message")).to_have_text("Count for me")

        page.click("#chat-question .stop-button")
        engine.wait_until_idle(limit=STOP_LIMIT)
        page.locator("#chat-window", has_text="Stopped.").wait_for()
        assert _stands_still(engine, 0.5)
        page.wait_for_selector("#chat-question .submit-button")

        page.click("#chat-retry")
        page.locator("#chat-window .q-stopped").wait_for(state="detached")
        page.locator("#chat-window .bot.message", has_text="word10 ").wait_for()
        expect(page.locator("#chat-window .user.message")).to_have_count(1)

        page.click("#chat-clear")
        engine.wait_until_idle(limit=STOP_LIMIT)
        page.locator("#chat-window .message").first.wait_for(state="detached")
        expect(page.locator("#chat-window")).to_contain_text("What is on your mind?")


def test_a_closed_tab_stops_the_engine(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine(words=100_000, seconds_per_word=0.02) as engine:
        server = start_server("--engine-url", engine.url, "--model-path", NAME)
        server.wait_for_model()
        window = visit(server.url)
        window.page.locator("#now", has_text=NAME).wait_for()
        window.ask("chat", "Go on")
        window.page.locator("#chat-window .bot.message", has_text="word5 ").wait_for()
        window.page.close()
        engine.wait_until_idle(limit=STOP_LIMIT)
        assert _stands_still(engine, 0.3)


def test_parameters_and_system_prompt_reach_the_engine(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine(words=40) as engine:
        server = start_server("--engine-url", engine.url, "--model-path", NAME)
        server.wait_for_model()
        window = visit(server.url)
        page = window.page
        page.locator("#now", has_text=NAME).wait_for()
        page.click("#sampling > button")
        page.fill("#system-prompt textarea", "You count.")
        for name, value in {
            "max_new_tokens": "7", "temperature": "0.5", "top_k": "9", "top_p": "0.8", "repetition_penalty": "1.2",
            "seed": "3",
        }.items():  # fmt: skip
            page.fill(f"#{name} input, #{name} textarea", value)
        window.ask("chat", "Count")
        answer = window.wait_for_answer("chat")
        assert "word7" in answer
        assert "word8" not in answer
        assert "limit of new tokens" in answer

        sent = engine.requests[-1]
        assert sent["messages"][0] == {"role": "system", "content": "You count."}
        names = ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")
        assert [sent[name] for name in names] == [7, 0.5, 9, 0.8, 1.2, 3]

        page.fill("#temperature input, #temperature textarea", "9")
        page.fill("#chat-question textarea", "Again")
        page.click("#chat-question .submit-button")
        page.locator(".toast-body", has_text="temperature must be between").wait_for()
        assert len(engine.requests) == 1


def test_without_a_model_the_page_says_what_to_do(start_server: StartServer, visit: Visit) -> None:
    server = start_server()
    window = visit(server.url)
    page = window.page
    page.locator("#chat-notice", has_text="No language model is loaded").wait_for()
    expect(page.locator("#load-starter")).to_contain_text("Load Qwen")
    expect(page.locator("#model-unload")).to_be_disabled()
    window.ask("chat", "Hello?")
    assert "No language model is loaded" in window.wait_for_answer("chat")

    page.click("#load-starter")  # there is no network here: the reason is told in plain words
    page.locator("#model-status .q-error").wait_for(timeout=60_000)
    reason = page.locator("#model-status .q-error").inner_text()
    assert "Traceback" not in reason
    assert "Qwen" in reason

    page.fill("#model-path input, #model-path textarea", "/no/such/folder")
    page.click("#model-load")
    page.locator("#model-status .q-error", has_text="/no/such/folder").wait_for()


def test_a_thought_is_folded_away_and_not_told_to_the_engine_again(start_server: StartServer, visit: Visit) -> None:
    with scripted_engine() as engine:
        engine.script = ("<th", "ink>\nSix times seven", " is 40 plus 2.\n</thi", "nk>\n\n", "Forty-two.")
        server = start_server("--engine-url", engine.url, "--model-path", NAME)
        server.wait_for_model()
        for url, title, question in ((server.url, "Thoughts", "6 * 7?"), (f"{server.url}/zh", "思考过程", "六乘七？")):
            window = visit(url)
            bots = window.page.locator("#chat-window .bot.message")
            window.page.locator("#now", has_text=NAME).wait_for()
            window.ask("chat", question)
            thought = window.page.locator("#chat-window .thought-group", has_text=title)
            expect(bots.last).to_contain_text("Forty-two.")
            expect(thought).to_have_count(1)
            expect(thought.get_by_text("Six times seven is 40 plus 2.")).to_be_hidden()
            thought.get_by_text(title).click()
            expect(thought.get_by_text("Six times seven is 40 plus 2.")).to_be_visible()
            expect(window.page.locator("#chat-window")).not_to_contain_text("think>")
            window.wait_for_answer("chat")
            window.ask("chat", "Sure?")
            expect(window.page.locator("#chat-window .thought-group")).to_have_count(2)
            window.wait_for_answer("chat")
            told = [message["content"] for message in engine.requests[-1]["messages"]]
            assert told == [question, "Forty-two.", "Sure?"]
