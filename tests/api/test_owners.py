"""Whose knowledge bases are whose: what one user has is not there for another, on any way to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import websocket

from tests.api.people import PASSWORD, House, running_house

SECRET = "The safe behind the clock opens with 4711."
SHARED = "The harbour opens at six."
QUESTION = "When does the harbour or the safe open?"

pytestmark = pytest.mark.xdist_group("owners")  # one server for all of them


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """bob has the base "diary" with one file; all share "handbook", with one file, which ann made."""
    with running_house(tmp_path_factory.mktemp("owners")) as house:
        assert house.call("bob", "POST", "/api/knowledge-bases", json={"name": "diary"}).json()["owner"] == "bob"
        assert house.call("ann", "POST", "/api/knowledge-bases", json={"name": "handbook"}).json()["owner"] == ""
        add(house, "bob", "diary", SECRET)
        add(house, "ann", "handbook", SHARED)
        yield house


def add(house: House, name: str, base: str, text: str, **params: str) -> dict[str, Any]:
    path, files = f"/api/knowledge-bases/{base}/files", [("files", ("note.txt", text.encode()))]
    reply = house.call(name, "POST", path, params={"wait": "true", **params}, files=files)
    assert reply.status_code == 200, reply.text
    record: dict[str, Any] = reply.json()[0]
    assert record["state"] == "searchable"
    return record


def calls(base: str, file_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every call that names a knowledge base or a file of one; from the tenth on they change it."""
    at = f"/api/knowledge-bases/{quote(base, safe='')}"
    grounded = {"prompt": QUESTION, "langchain": True, "knowledge_base": base, "mode": "retrieve"}
    chat = {"messages": [{"role": "user", "content": QUESTION}], "mode": "retrieve"}
    return [
        ("GET", f"{at}/files", {}),
        ("GET", f"{at}/files/{file_id}", {}),
        ("GET", f"{at}/files/{file_id}/content", {}),
        ("POST", f"{at}/search", {"json": {"query": QUESTION}}),
        ("POST", "/", {"json": grounded}),
        ("POST", "/", {"json": {**grounded, "use_stream_chat": True}}),
        ("POST", "/v1/chat/completions", {"json": {"model": f"kb:{base}", **chat}}),
        ("POST", "/v1/chat/completions", {"json": {"knowledge_base": base, **chat}}),
        ("GET", f"/v1/models/kb:{quote(base)}", {}),
        ("POST", f"{at}/files", {"files": [("files", ("evil.txt", b"evil"))]}),
        ("POST", f"{at}/files/{file_id}/cancel", {}),
        ("POST", f"{at}/files/{file_id}/reindex", {}),
        ("DELETE", f"{at}/files/{file_id}", {}),
        ("DELETE", at, {}),
    ]


@pytest.mark.parametrize("base", ["diary", "bob\x1fdiary"])
@pytest.mark.parametrize("owner", [None, "bob"])
def test_what_is_anothers_is_not_there(house: House, base: str, owner: str | None) -> None:
    params = {} if owner is None else {"owner": owner}
    file_id = house.call("bob", "GET", "/api/knowledge-bases/diary/files").json()[0]["id"]
    for method, path, options in calls(base, file_id):
        reply = house.call("eve", method, path, params=params, **options)
        assert reply.status_code in ((404,) if base == "diary" else (400, 404)), (method, path, reply.text)
        assert "4711" not in reply.text
    socket = websocket.create_connection(
        f"ws://127.0.0.1:{house.server.port}/", header=[f"Authorization: {house.tokens['eve']}"], timeout=60
    )
    socket.send(json.dumps({"prompt": "safe", "langchain": True, "knowledge_base": base, "mode": "retrieve"}))
    assert json.loads(socket.recv())["error"]["code"] in ("not_found", "invalid_request")
    socket.close()
    for path in ("/api/knowledge-bases", "/api/status", "/v1/models"):
        assert "diary" not in house.call("eve", "GET", path).text
    # A file is found in its own base only, also by who may see another base.
    for path in (f"files/{file_id}", f"files/{file_id}/content"):
        assert house.call("eve", "GET", f"/api/knowledge-bases/handbook/{path}").status_code == 404
    (mine,) = house.call("bob", "GET", "/api/knowledge-bases/diary/files").json()
    assert (mine["id"], mine["state"]) == (file_id, "searchable")


@pytest.mark.parametrize(
    ("name", "base", "found"), [("bob", "diary", "4711"), ("bob", "handbook", "six"), ("eve", "handbook", "six")]
)
def test_ones_own_and_the_shared_are_there(house: House, name: str, base: str, found: str) -> None:
    file_id = house.call(name, "GET", f"/api/knowledge-bases/{base}/files").json()[0]["id"]
    for number, (method, path, options) in enumerate(calls(base, file_id)[:9]):
        reply = house.call(name, method, path, **options)
        assert reply.status_code == 200, (method, path, reply.text)
        assert (base if number == 8 else "note.txt" if number < 2 else found) in reply.text, (method, path)


def test_the_shared_is_changed_by_admins_only(house: House) -> None:
    file_id = house.call("ann", "GET", "/api/knowledge-bases/handbook/files").json()[0]["id"]
    for method, path, options in calls("handbook", file_id)[9:]:
        reply = house.call("eve", method, path, **options)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden"), (method, path)
    for owner in ("", "bob"):
        made = house.call("eve", "POST", "/api/knowledge-bases", params={"owner": owner}, json={"name": "x"})
        assert made.status_code == 403
    assert house.call("ann", "POST", f"/api/knowledge-bases/handbook/files/{file_id}/cancel").status_code == 200


def test_ones_own_name_wins_over_a_shared_one(house: House) -> None:
    assert house.call("eve", "POST", "/api/knowledge-bases", json={"name": "handbook"}).json()["owner"] == "eve"
    assert house.call("eve", "POST", "/api/knowledge-bases", json={"name": "handbook"}).status_code == 409
    assert house.call("eve", "GET", "/api/knowledge-bases/handbook/files").json() == []
    shared = house.call("eve", "GET", "/api/knowledge-bases/handbook/files", params={"owner": ""}).json()
    assert [file["name"] for file in shared] == ["note.txt"]
    assert house.call("eve", "DELETE", "/api/knowledge-bases/handbook").status_code == 204
    assert len(house.call("eve", "GET", "/api/knowledge-bases/handbook/files").json()) == 1  # the shared one again


def test_an_admin_reaches_what_is_a_users_and_removes_it_with_the_user(house: House) -> None:
    at = "/api/knowledge-bases"
    house.call("ann", "POST", "/api/users", json={"name": "tom", "password": PASSWORD}).raise_for_status()
    assert house.call("ann", "POST", at, params={"owner": "Tom"}, json={"name": "plans"}).json()["owner"] == "tom"
    assert house.call("ann", "GET", f"{at}/plans/files").status_code == 404
    assert house.call("ann", "GET", f"{at}/plans/files", params={"owner": "tom"}).json() == []
    add(house, "ann", "plans", "Tom plans a boat.", owner="tom")
    assert {"name": "plans", "files": 1, "passages": 1, "owner": "tom"} in house.call("ann", "GET", at).json()
    removed = house.call("ann", "DELETE", "/api/users/tom", params={"with_documents": "true"})
    assert removed.status_code == 204
    assert "plans" not in house.call("ann", "GET", at).text
