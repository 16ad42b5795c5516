"""Who gets in: every route of a server with a token, other sites, other host names, and the login form."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.attempts import Attempts
from api.auth import is_loopback
from tests.running_server import RunningServer, running_server

TOKEN = "correct-horse-battery-staple"
PATHS = (
    "/",
    "/zh",
    "/api/status",
    "/api/models",
    "/api/models/load",
    "/api/models/unload",
    "/api/me",
    "/api/tokens",
    "/api/tokens/x",
    "/api/users",
    "/api/users/x",
    "/api/embedding-model",
    "/metrics",
    "/v1/models",
    "/v1/chat/completions",
    "/api/knowledge-bases",
    "/api/knowledge-bases/x",
    "/api/knowledge-bases/x/files",
    "/api/knowledge-bases/x/files/1",
    "/api/knowledge-bases/x/files/1/content",
    "/api/knowledge-bases/x/search",
    "/api/nothing",
    "/openapi.json",
    "/docs",
    "/logout",
    "/config",
    "/theme.css",
    "/manifest.json",
    "/static/x",
    "/assets/index.js",
    "/gradio_api/info",
    "/gradio_api/upload",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/heartbeat/x",
    "/gradio_api/app_id",
    "/gradio_api/startup-events",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/stream/x/1/1",
    "/health/",
    "//health",
    "/health/../api/status",
    "/%68ealth/x",
    "/api%2Fstatus",
    "/login/",
)


@pytest.fixture(scope="module")
def _locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("locked"), env={"QUARTET_TOKEN": TOKEN}) as server:
        yield server


@pytest.fixture
def locked(_locked: RunningServer, request: pytest.FixtureRequest) -> RunningServer:
    """A server with a token."""
    request.node.servers = [_locked]
    return _locked


def raw(server: RunningServer, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body of a request whose path is sent exactly as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode("utf-8", "replace")
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_open(locked: RunningServer, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert raw(locked, method, path)[0] == 401, method
    assert raw(locked, "GET", f"{path}?token={TOKEN}&authorization={TOKEN}")[0] == 401
    assert raw(locked, "GET", path, {"X-API-Key": TOKEN, "Proxy-Authorization": TOKEN})[0] == 401
    assert raw(locked, "GET", path, {"Authorization": "wrong"})[0] in (401, 429)


def test_every_route_of_our_own_is_behind_the_token(locked: RunningServer) -> None:
    reply = locked.get("/openapi.json", headers={"Authorization": TOKEN})
    for path, methods in reply.json()["paths"].items():
        for method in methods:
            status, _ = raw(locked, method.upper(), path.replace("{", "").replace("}", ""))
            assert status == (200 if path == "/health" else 401), (method, path)


def test_health_is_open_and_tells_no_more_than_health(locked: RunningServer) -> None:
    assert locked.get("/health").json() == {"live": True, "ready": True, "problems": []}


@pytest.mark.parametrize("value", [TOKEN, f"Bearer {TOKEN}", f"bearer {TOKEN}"])
def test_the_token_opens_bare_or_as_bearer(locked: RunningServer, value: str) -> None:
    assert locked.get("/api/status", headers={"Authorization": value}).status_code == 200


def test_a_host_name_cannot_talk_its_way_in(locked: RunningServer) -> None:
    for host in ("localhost/health?", "localhost/health", "127.0.0.1#/health", "x@/health"):
        assert raw(locked, "GET", "/api/status", {"Host": host})[0] in (400, 401, 403)


def test_a_websocket_needs_the_token_too(locked: RunningServer) -> None:
    head = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{locked.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert b" 403 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_browser_is_shown_the_login_form_and_gets_in_with_it(locked: RunningServer) -> None:
    with locked.client() as browser:
        page = browser.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login")
        form = browser.get("/login")
        assert 'action="/login"' in form.text
        # A browser under "no-referrer" would send the form with the Origin "null", and be refused.
        assert form.headers["referrer-policy"] == "same-origin"
        assert "no-store" in form.headers["cache-control"]

        reply = browser.post("/login", data={"token": TOKEN}, headers={"Origin": locked.url})
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert browser.get("/api/status").status_code == 200
        assert browser.get("/").status_code == 200

        assert browser.post("/logout", headers={"Origin": locked.url}).status_code == 303
        assert browser.get("/api/status").status_code == 401
        browser.cookies.set("quartet_session", cookie.split("=")[1].split(";")[0])
        assert browser.get("/api/status").status_code == 401  # the server has forgotten it, not only the browser


def test_guessing_at_the_form_is_limited(start_server: object) -> None:
    running: RunningServer = start_server(env={"QUARTET_TOKEN": TOKEN})  # type: ignore[operator]
    replies = [running.post("/login", data={"token": f"guess {number}"}) for number in range(11)]
    assert [reply.status_code for reply in replies] == [401] * 10 + [429]
    assert 0 < int(replies[-1].headers["retry-after"]) <= 300
    assert running.post("/login", data={"token": TOKEN}).status_code == 429  # else guessing would still be free
    assert TOKEN not in running.log


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_requests_of_other_sites_are_refused(server: RunningServer, origin: str) -> None:
    # The second header makes a preflight of the OPTIONS call, and means nothing in the others.
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/", {}),
        ("GET", "/api/status", {}),
        ("OPTIONS", "/api/status", {}),
        ("POST", "/api/knowledge-bases/x/files", {"files": {"files": ("x.txt", b"x")}}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.txt", b"x")}}),
        ("POST", "/gradio_api/queue/join", {"json": {"data": [], "fn_index": 0, "session_hash": "x"}}),
    ]
    with server.client() as client:
        for method, path, options in calls:
            reply = client.request(method, path, headers=headers, **options)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden_origin"), path
            assert "access-control-allow-origin" not in reply.headers


def test_the_page_itself_may_call(server: RunningServer) -> None:
    for origin in (server.url,):
        reply = server.get("/api/status", headers={"Origin": origin})
        assert reply.status_code == 200
        assert "access-control-allow-origin" not in reply.headers


def test_gradio_does_not_open_cross_origin_access(locked: RunningServer) -> None:
    """Bound to another name than localhost, Gradio alone would answer every Origin with credentials allowed."""
    headers = {"Host": "box.example", "Authorization": TOKEN}
    reply = locked.get("/config", headers={**headers, "Origin": "http://box.example"})
    assert reply.status_code == 200
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "169.254.169.254", ""])
def test_without_a_token_only_loopback_names_are_answered(server: RunningServer, host: str) -> None:
    for path in ("/", "/api/status", "/health"):
        assert raw(server, "GET", path, {"Host": host})[0] == 403


def test_loopback_names() -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:80", "127.8.9.1", "[::1]:8000", "page.localhost"):
        assert is_loopback(host), host
    for host in ("", "localhost.evil", "10.0.0.1", "[::2]", "[", "0x7f000001", "2130706433", "user@localhost.evil"):
        assert not is_loopback(host), host


def test_security_headers_are_on_every_answer(server: RunningServer) -> None:
    for path in ("/", "/zh", "/health", "/api/status", "/api/nothing", "/login", "/theme.css"):
        headers = server.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert "frame-ancestors 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff", path
        assert "referrer-policy" in headers, path
        assert "server" not in headers, path


def test_wrong_guesses_are_counted_per_address_within_a_time() -> None:
    now = [0.0]
    attempts = Attempts(limit=2, seconds=60, capacity=2, clock=lambda: now[0])
    assert attempts.wait("a") == 0
    attempts.failed("a")
    now[0] = 10
    attempts.failed("a")
    assert attempts.wait("a") == 50
    assert attempts.wait("b") == 0
    now[0] = 61
    assert attempts.wait("a") == 0
    for address in "bcd":
        attempts.failed(address)  # the oldest address is forgotten: memory stays bounded
    assert attempts.wait("a") == 0
    attempts.failed("d")
    assert attempts.wait("d") == 60
    attempts.undo("d")  # it was right after all
    assert attempts.wait("d") == 0


def test_the_token_is_in_no_file_of_the_data_folder_and_no_process_list(locked: RunningServer) -> None:
    locked.get("/api/status", headers={"Authorization": TOKEN})
    assert TOKEN not in locked.log
    for file in locked.data_dir.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert TOKEN.encode() not in process.read_bytes()
        except OSError:
            continue  # it ended meanwhile


def test_httpx_is_not_led_to_another_host(locked: RunningServer) -> None:
    reply = httpx.get(f"{locked.url}/", headers={"Accept": "text/html", "Host": "box.example"}, trust_env=False)
    assert reply.headers["location"] == "/login"
