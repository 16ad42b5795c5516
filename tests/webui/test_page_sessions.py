"""Whose page is whose: no event of one visitor is another's, and no event does what only admins may."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.people import House
from webui.page_sessions import PageSessions

JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"
ADMINS_ONLY = "Only admins may do this"

pytestmark = pytest.mark.xdist_group("page-sessions")  # one server for all of them


def page_of(house: House) -> dict[str, Any]:
    config: dict[str, Any] = house.call("bob", "GET", "/config").json()
    return config


def clicked(config: dict[str, Any], elem_id: str) -> list[tuple[int, list[Any]]]:
    """What happens at the server when a button is pressed, for each language: its event, and what the fields hold."""
    parts = {part["id"]: part["props"] for part in config["components"]}
    buttons = {number for number, props in parts.items() if props.get("elem_id") == elem_id}
    return [
        (event["id"], [parts[number].get("value") for number in event["inputs"]])
        for event in config["dependencies"]
        if event["backend_fn"] and any(target in buttons and kind == "click" for target, kind in event["targets"])
    ]


def heard(client: httpx.Client, session: str) -> list[dict[str, Any]]:
    """The messages to a page until its event has ended."""
    messages: list[dict[str, Any]] = []
    with client.stream("GET", DATA, params={"session_hash": session}, timeout=60) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if line.startswith("data:"):
                messages.append(json.loads(line[5:]))
                if messages[-1]["msg"] == "process_completed":
                    return messages
    raise AssertionError("the stream ended without an outcome")


@pytest.mark.parametrize("thief", ["eve", "ann"])
def test_a_page_is_heard_and_moved_by_its_own_visitor_only(house: House, thief: str) -> None:
    session = f"page-of-bob-{thief}"
    (event, values), *_ = clicked(page_of(house), "model-unload")
    body = {"fn_index": event, "data": values, "session_hash": session}
    twice = json.dumps(body)[:-1] + ', "session_hash": "mine"}'
    with house.of("bob") as bob, house.of(thief) as other:
        taken = bob.post(JOIN, json=body)
        assert taken.status_code == 200
        for method, path, options in [
            ("GET", DATA, {"params": {"session_hash": session}}),
            ("GET", f"/gradio_api/heartbeat/{session}", {}),
            ("POST", JOIN, {"json": body}),
            ("POST", "/gradio_api/run/predict", {"json": body}),
            ("POST", "/gradio_api/cancel", {"json": {**body, "event_id": taken.json()["event_id"]}}),
        ]:
            assert other.request(method, path, **options).status_code == 404, path
        # Of two names the last one counts, at the door and behind it.
        assert other.post(JOIN, content=twice, headers={"Content-Type": "application/json"}).status_code in (200, 404)
        assert other.post(JOIN, content="{", headers={"Content-Type": "application/json"}).status_code == 422
        messages = heard(bob, session)
        assert [message["msg"] for message in messages].count("process_starts") == 1
        assert ADMINS_ONLY in json.dumps(messages)


@pytest.mark.parametrize("button", ["model-load", "model-unload", "load-starter", "embedding-change"])
def test_what_only_admins_may_is_refused_behind_the_buttons_too(house: House, button: str) -> None:
    config = page_of(house)
    before = house.call("ann", "GET", "/api/embedding-model").json()
    events = clicked(config, button)
    assert len(events) == 2, "one for each language"
    (english, values), (chinese, _) = events
    with house.of("bob") as bob:
        for event, sentence in ((english, ADMINS_ONLY), (chinese, "只有管理员")):
            session = f"{button}-{event}"
            assert bob.post(JOIN, json={"fn_index": event, "data": values, "session_hash": session}).status_code == 200
            assert sentence in json.dumps(heard(bob, session), ensure_ascii=False)
    assert house.call("ann", "GET", "/api/status").json()["model"]["state"] == "empty"
    assert house.call("ann", "GET", "/api/embedding-model").json() == before


def test_an_admin_is_not_refused(house: House) -> None:
    (event, values), *_ = clicked(page_of(house), "model-unload")
    with house.of("ann") as ann:
        assert ann.post(JOIN, json={"fn_index": event, "data": values, "session_hash": "ann"}).status_code == 200
        assert ADMINS_ONLY not in json.dumps(heard(ann, "ann"))


def test_sessions_are_forgotten_in_the_order_of_their_use() -> None:
    sessions = PageSessions(limit=2)
    assert sessions.belongs("a", "bob")
    assert sessions.belongs("b", "")
    assert sessions.belongs("a", "bob")
    assert not sessions.belongs("b", "bob")
    assert sessions.belongs("c", "eve")  # and "a" is forgotten
    assert not sessions.belongs("b", "eve")
    assert sessions.belongs("a", "eve")
