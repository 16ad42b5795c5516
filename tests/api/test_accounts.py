"""Accounts over HTTP: login, tokens, roles, and that who is removed is out at once."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket

from tests.api.people import PASSWORD, House, log_in
from tests.running_server import ROOT, RunningServer, clean_environment, running_server

pytestmark = pytest.mark.xdist_group("accounts")  # one server for all of them


def test_with_accounts_loopback_asks_too(house: House) -> None:
    document = house.call("bob", "GET", "/openapi.json").json()
    with house.server.client() as nobody:
        for path, methods in document["paths"].items():
            for method in methods:
                reply = nobody.request(method, path.replace("{", "").replace("}", ""))
                assert reply.status_code == (200 if path == "/health" else 401), (method, path)
        for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x", "/gradio_api/heartbeat/x", "/docs"):
            assert nobody.get(path).status_code == 401, path
    with pytest.raises(websocket.WebSocketBadStatusException):
        websocket.create_connection(f"ws://127.0.0.1:{house.server.port}/", timeout=30)


def test_a_user_logs_in_and_out(house: House) -> None:
    with house.server.client() as browser:
        assert 'name="password"' in browser.get("/login").text
        assert 'name="token"' not in browser.get("/login").text  # this server has none
        assert log_in(browser, "bob", "wrong password").status_code == 401
        assert log_in(browser, "nobody").status_code == 401
        assert browser.get("/api/me").status_code == 401
        reply = log_in(browser, "Bob")
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        assert "HttpOnly" in reply.headers["set-cookie"]
        assert browser.get("/api/me").json() == {"name": "bob", "role": "user", "accounts": True}
        assert browser.get("/").status_code == 200
        # The cookie is no licence for the pages of other sites.
        evil = {"Origin": "http://evil.example"}
        assert browser.post("/api/tokens", json={"name": "x"}, headers=evil).status_code == 403
        cookie, url = f"quartet_session={browser.cookies['quartet_session']}", f"ws://127.0.0.1:{house.server.port}/"
        with pytest.raises(websocket.WebSocketBadStatusException):
            websocket.create_connection(url, cookie=cookie, origin="http://evil.example", timeout=30)
        websocket.create_connection(url, cookie=cookie, origin=house.server.url, timeout=30).close()
        kept = browser.cookies["quartet_session"]
        assert browser.post("/logout").status_code == 303
        browser.cookies.set("quartet_session", kept)
        assert browser.get("/api/me").status_code == 401


def test_tokens_are_made_used_and_revoked(house: House) -> None:
    made = house.call("bob", "POST", "/api/tokens", json={"name": "backup"}).json()
    for value in (made["token"], f"Bearer {made['token']}"):
        assert house.server.get("/api/me", headers={"Authorization": value}).json()["name"] == "bob"
    socket = websocket.create_connection(
        f"ws://127.0.0.1:{house.server.port}/", header=[f"Authorization: {made['token']}"], timeout=30
    )
    socket.close()
    listed = house.call("bob", "GET", "/api/tokens").json()
    assert made["id"] in [token["id"] for token in listed]
    assert made["token"] not in str(listed)
    assert made["id"] not in str(house.call("eve", "GET", "/api/tokens").json())
    assert house.call("eve", "DELETE", f"/api/tokens/{made['id']}").status_code == 404
    assert house.call("ann", "DELETE", f"/api/tokens/{made['id']}").status_code == 404
    assert house.call("bob", "DELETE", f"/api/tokens/{made['id']}").status_code == 204
    assert house.server.get("/api/me", headers={"Authorization": made["token"]}).status_code == 401
    assert house.call("bob", "POST", "/api/tokens", json={"name": ""}).status_code == 400


ADMIN_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/models/load", {"json": {"model_path": "/nowhere"}}),
    ("POST", "/api/models/unload", {}),
    ("POST", "/api/models/inspect", {"json": {"model_path": "/etc"}}),
    ("POST", "/api/embedding-model", {"json": {"model": "/nowhere"}}),
    ("GET", "/metrics", {}),
    ("GET", "/api/users", {}),
    ("POST", "/api/users", {"json": {"name": "x", "password": PASSWORD, "role": "admin"}}),
    ("PATCH", "/api/users/bob", {"json": {"role": "admin"}}),
    ("DELETE", "/api/users/ann", {}),
]


@pytest.mark.parametrize(("method", "path", "options"), ADMIN_CALLS)
def test_what_only_admins_may(house: House, method: str, path: str, options: dict[str, Any]) -> None:
    reply = house.call("bob", method, path, **options)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
    assert reply.json()["error"]["message"].startswith("Only admins")


def test_admins_may(house: House) -> None:
    for method, path, options in ADMIN_CALLS[:6]:
        assert house.call("ann", method, path, **options).status_code not in (401, 403), path
    assert [user["name"] for user in house.call("ann", "GET", "/api/users").json()][:2] == ["ann", "bob"]
    assert "bob" not in house.call("ann", "GET", "/metrics").text


def test_an_admin_manages_accounts(house: House) -> None:
    new = {"name": "Zoe", "password": PASSWORD, "role": "user"}
    made = house.call("ann", "POST", "/api/users", json=new)
    assert (made.status_code, made.json()["name"]) == (201, "zoe")
    assert house.call("ann", "POST", "/api/users", json=new).status_code == 409
    assert house.call("ann", "POST", "/api/users", json={**new, "name": "y", "role": "boss"}).status_code == 400
    assert house.call("ann", "POST", "/api/users", json={**new, "name": "y", "password": "x"}).status_code == 400
    with house.server.client() as browser:
        assert log_in(browser, "zoe").status_code == 303
        assert house.call("ann", "PATCH", "/api/users/zoe", json={"role": "admin"}).json()["role"] == "admin"
        assert browser.get("/metrics").status_code == 200
        assert house.call("ann", "PATCH", "/api/users/zoe", json={"password": "another one"}).status_code == 200
        assert browser.get("/api/me").status_code == 401
        assert log_in(browser, "zoe").status_code == 401
        assert log_in(browser, "zoe", "another one").status_code == 303
        assert house.call("ann", "DELETE", "/api/users/zoe").status_code == 204
        assert browser.get("/api/me").status_code == 401
    assert house.call("ann", "DELETE", "/api/users/zoe").status_code == 404
    for refused in (("DELETE", {}), ("PATCH", {"json": {"role": "user"}})):
        assert house.call("ann", refused[0], "/api/users/ann", **refused[1]).status_code == 409


def test_who_is_removed_by_a_command_is_out_with_what_is_open(house: House) -> None:
    house.call("ann", "POST", "/api/users", json={"name": "tom", "password": PASSWORD})
    with house.server.client() as browser:
        assert log_in(browser, "tom").status_code == 303
        secret = browser.post("/api/tokens", json={"name": "x"}).json()["token"]
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{house.server.port}/", header=[f"Authorization: {secret}"], timeout=60
        )
        with browser.stream("GET", "/gradio_api/heartbeat/tomspage") as heartbeat:
            command = [sys.executable, "app.py", "users", "remove", "tom", "--data-dir", str(house.server.data_dir)]
            subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True, timeout=60, capture_output=True)
            assert socket.recv() == ""  # closed by the server
            socket.shutdown()
            with suppress(httpx.RemoteProtocolError):  # cut off or ended; else it would go on for ever
                heartbeat.read()
        assert browser.get("/api/me").status_code == 401
    assert house.server.get("/api/me", headers={"Authorization": secret}).status_code == 401


def test_guessing_is_slowed_down_by_address_and_by_name(house: House) -> None:
    def post(address: str, name: str, password: str) -> httpx.Response:
        transport = httpx.HTTPTransport(local_address=address, verify=False)
        with httpx.Client(base_url=house.server.url, transport=transport, timeout=60) as client:
            return log_in(client, name, password)

    # From one address at several names, then at one name from several addresses.
    replies = [post("127.0.0.2", f"nobody{number}", "guess") for number in range(11)]
    assert [reply.status_code for reply in replies] == [401] * 10 + [429]
    assert 0 < int(replies[-1].headers["retry-after"]) <= 300
    assert post("127.0.0.2", "bob", PASSWORD).status_code == 429
    assert post("127.0.0.3", "bob", PASSWORD).status_code == 303
    for number in range(10):
        assert post(f"127.0.0.{10 + number}", "Eve", "guess").status_code == 401
    assert post("127.0.0.4", "eve", PASSWORD).status_code == 429
    assert post("127.0.0.4", "bob", PASSWORD).status_code == 303


def test_sessions_outlive_a_restart_and_the_operators_token_does_not_outlive_its_change(tmp_path: Path) -> None:
    def started(token: str) -> Any:
        return running_server(tmp_path, env={"QUARTET_TOKEN": token})

    cookies = {}
    with started("the first token") as server, server.client() as browser:
        made = browser.post(
            "/api/users",
            json={"name": "ann", "password": PASSWORD, "role": "admin"},
            headers={"Authorization": "the first token"},
        )
        assert made.status_code == 201
        assert log_in(browser, "ann").status_code == 303
        cookies["ann"] = browser.cookies["quartet_session"]
        browser.cookies.clear()
        assert browser.post("/login", data={"token": "the first token"}).status_code == 303
        cookies["operator"] = browser.cookies["quartet_session"]
    for token, names in (("the first token", ["ann", ""]), ("another token", ["ann", None])):
        with started(token) as server, server.client() as browser:
            replies = [browser.get("/api/me", headers={"Cookie": f"quartet_session={c}"}) for c in cookies.values()]
            assert [reply.json().get("name") for reply in replies] == names


def test_no_secret_is_in_a_log_a_file_or_a_process_list(house: House) -> None:
    with house.server.client() as browser:
        log_in(browser, "bob")
        secrets = [PASSWORD, browser.cookies["quartet_session"], *house.tokens.values()]
        for secret in secrets[1:]:
            browser.get("/api/me", headers={"Authorization": secret})
    read = [file.read_bytes() for file in house.server.data_dir.rglob("*") if file.is_file()]
    read.append(house.server.log.encode())
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            read.append(process.read_bytes())
        except OSError:
            continue  # it ended meanwhile
    for secret in secrets:
        assert not any(secret.encode() in text for text in read)


def test_the_first_account_is_an_admins_and_shuts_the_door(start_server: Any) -> None:
    running: RunningServer = start_server()
    assert running.get("/api/me").json() == {"name": "", "role": "admin", "accounts": False}
    user = {"name": "bob", "password": PASSWORD, "role": "user"}
    assert running.post("/api/users", json=user).status_code == 409
    assert running.post("/api/tokens", json={"name": "x"}).status_code == 400
    assert running.post("/api/users", json={**user, "role": "admin"}).status_code == 201
    assert running.get("/api/me").status_code == 401
