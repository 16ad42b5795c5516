"""What Gradio leaves open in a mounted page is closed: no event reads a file that was not uploaded here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running_server import RunningServer

MARK = b"the secret of the house, 7d1f2a"


@contextmanager
def _listener() -> Iterator[tuple[str, list[str]]]:
    """A web server that would serve the secret, and the list of what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MARK)

        def log_message(self, format: str, *args: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}/secret.txt", asked
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def _file(path: str, name: str = "secret.txt") -> dict[str, Any]:
    return {"path": path, "orig_name": name, "url": path, "size": 31, "meta": {"_type": "gradio.FileData"}}


def _page(server: RunningServer) -> dict[str, Any]:
    config: dict[str, Any] = server.get("/config").json()
    return config


def _join(client: httpx.Client, fn_index: int, data: list[Any], session: str) -> dict[str, Any]:
    """Call an event as the page does, through the queue, and give the last message about it."""
    joined = client.post("/gradio_api/queue/join", json={"fn_index": fn_index, "data": data, "session_hash": session})
    if joined.status_code != 200:
        return {"success": False, "output": joined.text}
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as messages:
        for line in messages.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] in ("process_completed", "unexpected_error", "close_stream"):
                    return dict(message)
    raise AssertionError("the stream ended without an outcome")


def _inputs(config: dict[str, Any], event: dict[str, Any], value: object) -> list[Any]:
    """Every input of an event set to `value`, where a list is expected to a list of it."""
    kinds = {component["id"]: component["type"] for component in config["components"]}
    return [[value] if kinds[number] == "file" else value for number in event["inputs"]]


def _kept(server: RunningServer) -> list[Path]:
    """Files of the data folder that hold the secret, but for the one planted there."""
    return [
        path
        for path in server.data_dir.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != "planted.txt" and MARK in path.read_bytes()
    ]


@pytest.fixture
def secrets(server: RunningServer, tmp_path: Path) -> Iterator[list[str]]:
    """Paths that lead to a secret in every way we know of."""
    outside = tmp_path / "secret.txt"
    outside.write_bytes(MARK)
    planted = server.data_dir / "planted.txt"
    planted.write_bytes(MARK)
    link = server.data_dir / "uploads" / "link.txt"
    link.symlink_to(outside)
    with _listener() as (web, asked):
        yield [
            "/etc/hostname",
            str(outside),
            str(planted),
            f"{server.data_dir}/uploads/../planted.txt",
            str(link),
            outside.as_uri(),
            web,
            web.replace("127.0.0.1", "localhost"),
            web.replace("127.0.0.1", "2130706433"),
            "relative.txt",
        ]
    planted.unlink()
    link.unlink()
    assert asked == [], "the server fetched a URL that was given as a file"


def test_no_event_takes_a_file_that_was_not_uploaded(server: RunningServer, secrets: list[str]) -> None:
    config = _page(server)
    events = [event for event in config["dependencies"] if event["inputs"]]
    takes_files = {component["id"] for component in config["components"] if component["type"] == "file"}
    assert sum(bool(takes_files & set(event["inputs"])) for event in events) == 2, "Vectorize, once per language"
    bases = server.get("/api/knowledge-bases").json()
    with server.client(timeout=20) as client:
        for event in events:
            # All paths for those that expect a file; two for the others, which expect none anywhere.
            for number, path in enumerate(secrets if takes_files & set(event["inputs"]) else secrets[1::5]):
                data = _inputs(config, event, _file(path))
                if event["queue"] is False:
                    body = {"fn_index": event["id"], "data": data, "session_hash": f"s{number}"}
                    answer = client.post("/gradio_api/run/predict", json=body)
                    assert answer.status_code == 500, (event["api_name"], path, answer.text)
                    assert MARK.decode() not in answer.text
                else:
                    outcome = _join(client, event["id"], data, f"q{event['id']}-{number}")
                    assert not outcome.get("success"), (event["api_name"], path, outcome)
                    assert MARK.decode() not in json.dumps(outcome)
    assert server.get("/api/knowledge-bases").json() == bases, "something was indexed"
    assert _kept(server) == []


def test_events_cannot_be_called_by_name_beside_the_queue(server: RunningServer, secrets: list[str]) -> None:
    names = {event["api_name"] for event in _page(server)["dependencies"] if event["api_name"]}
    assert names
    with server.client() as client:
        for name in names:
            body = {"data": [[_file(secrets[1])], "default"]}
            assert client.post(f"/gradio_api/call/{name}", json=body).status_code == 404
            assert client.post(f"/gradio_api/call/v2/{name}", json=body).status_code == 404
            assert client.post(f"/gradio_api/api/{name}", json=body).status_code == 404
            assert client.post(f"/gradio_api/run/{name}", json=body).status_code in (404, 422, 500)
    assert _kept(server) == []


def test_queued_events_cannot_be_run_beside_the_queue(server: RunningServer) -> None:
    with server.client() as client:
        for event in _page(server)["dependencies"]:
            if event["queue"] is not False and event["backend_fn"]:
                body = {"fn_index": event["id"], "data": [None] * len(event["inputs"])}
                assert client.post("/gradio_api/run/predict", json=body).status_code == 404, event["api_name"]


@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
def test_no_file_of_the_host_is_served(server: RunningServer, secrets: list[str], prefix: str) -> None:
    with server.client() as client:
        for path in [*secrets[:4], str(server.data_dir / "quartet.lock"), "../../../../../../etc/hostname"]:
            answer = client.get(prefix + path)
            assert answer.status_code >= 400, (prefix, path)
            assert MARK not in answer.content


def test_an_upload_is_neither_listed_nor_served(server: RunningServer) -> None:
    with server.client() as client:
        uploaded = client.post("/gradio_api/upload", files={"files": ("page.html", b"<script>1</script>")})
        path = uploaded.json()[0]
        assert Path(path).is_relative_to(server.data_dir / "uploads")
        assert client.get(f"/gradio_api/file={path}").status_code == 404
    assert (server.data_dir / "uploads").stat().st_mode & 0o077 == 0


def test_the_page_is_set_up_closed(server: RunningServer) -> None:
    config = _page(server)
    assert config["show_error"] is False
    assert config["footer_links"] == []
    assert config["run_history"] is False
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] > 0
    assert config["stylesheets"] == [] or all("http" not in sheet for sheet in config["stylesheets"])
    assert not [c["type"] for c in config["components"] if c["type"] in ("html", "downloadbutton", "deeplinkbutton")]
    for chat in (c["props"] for c in config["components"] if c["type"] == "chatbot"):
        assert chat["sanitize_html"] is True
        assert chat["allow_tags"] is False
        assert chat["allow_file_downloads"] is False
    for text in (c["props"] for c in config["components"] if c["type"] == "markdown"):
        assert text["sanitize_html"] is True
    chats = {c["id"] for c in config["components"] if c["type"] == "chatbot"}
    assert not [e for e in config["dependencies"] if chats & set(e["inputs"])], "a chat window must not be an input"
    assert not [e for e in config["dependencies"] if e.get("js")], "the content security policy allows no eval"


@pytest.mark.parametrize("path", ["/monitoring", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/runs",
                                  "/gradio_api/deep_link", "/gradio_api/vibe-code", "/gradio_api/token"])  # fmt: skip
def test_other_doors_of_gradio_are_shut(server: RunningServer, path: str) -> None:
    assert server.get(path).status_code == 404
    assert server.post(path, json={}).status_code in (404, 405)


def test_every_answer_of_the_page_carries_the_security_headers(server: RunningServer) -> None:
    for path in ("/", "/zh", "/config", "/gradio_api/info", "/theme.css"):
        headers = server.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
