"""Models and knowledge bases over HTTP, against the real server."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import checkpoints
from tests.running_server import RunningServer
from tests.scripted_engine import NAME, scripted_engine


def error_of(reply: Any) -> tuple[int, str, str]:
    error = reply.json()["error"]
    assert "Traceback" not in error["message"]
    return reply.status_code, error["code"], error["message"]


@pytest.fixture
def base(server: RunningServer) -> str:
    """The path of a new knowledge base with a Chinese name."""
    name = f"手册 {uuid.uuid4().hex}"
    made = server.post("/api/knowledge-bases", json={"name": name}).json()
    assert made == {"name": name, "files": 0, "passages": 0, "owner": ""}
    return f"/api/knowledge-bases/{name}"


def test_status_tells_version_model_queue_memory_and_knowledge_bases(server: RunningServer, base: str) -> None:
    status = server.get("/api/status").json()
    assert status["version"] == "0.1.0"
    assert (status["model"]["state"], status["model"]["backend"]) == ("empty", "quote")
    assert status["queue"] == 0
    assert 0 < status["memory"]["available"] <= status["memory"]["total"]
    assert base.rsplit("/", 1)[1] in [entry["name"] for entry in status["knowledge_bases"]]


def test_the_menu_offers_models_of_the_four_families(server: RunningServer) -> None:
    menu = server.get("/api/models").json()
    assert {"qwen", "llama", "chatglm", "baichuan"} <= {entry["family"] for entry in menu["catalog"]}
    assert menu["model"]["state"] == "empty"


def test_a_folder_that_is_no_model_is_said_in_a_sentence(server: RunningServer, tmp_path: Path) -> None:
    status, code, message = error_of(server.post("/api/models/load", json={"model_path": str(tmp_path)}))
    assert (status, code) == (422, "model_unusable")
    assert str(tmp_path) in message or "config.json" in message
    server.post("/api/models/unload")


def test_a_load_can_be_followed_as_events(start_server: object, tmp_path: Path) -> None:
    with scripted_engine() as engine:
        running: RunningServer = start_server("--engine-url", engine.url)  # type: ignore[operator]
        running.wait_for_model()
        running.post("/api/models/unload")
        body = {"model_path": NAME, "backend": "openai"}
        events = events_of(running.post("/api/models/load", params={"stream": "true"}, json=body).text)
        assert events[-1][0] == "ready"
        assert (events[-1][1]["name"], events[-1][1]["state"]) == (NAME, "ready")

        failing = events_of(
            running.post("/api/models/load", params={"stream": "true"}, json={"model_path": str(tmp_path)}).text
        )
        assert [name for name, _ in failing[:-1]] == ["progress"] * (len(failing) - 1)
        assert failing[-1][0] == "failed"
        assert failing[-1][1]["error"]["code"] == "model_unusable"
        # The model before is still there and answers.
        assert running.post("/", content="hello").text == engine.text(5)


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def test_a_folder_is_inspected_before_it_is_loaded(server: RunningServer, tmp_path: Path) -> None:
    folder = str(checkpoints.untrained("Qwen3ForCausalLM"))
    found = server.post("/api/models/inspect", json={"model_path": folder}).json()
    assert (found["family"], found["kind"], found["native"]) == ("qwen", "qwen3", True)
    assert found["backend"] == "transformers"
    assert found["context_length"] == checkpoints.CONTEXT_LENGTH
    assert found["memory"]["weights"] > 1_000_000
    assert found["memory"]["kv_cache"] > 0
    assert found["fits"] == (
        sum(found["memory"][part] for part in ("weights", "kv_cache", "overhead")) <= found["free"]
    )
    status, code, message = error_of(server.post("/api/models/inspect", json={"model_path": str(tmp_path)}))
    assert (status, code) == (422, "model_unusable")
    assert "config.json" in message
    assert error_of(server.post("/api/models/inspect", json={"model_path": " "}))[0] == 400


def test_unloading_without_a_model_is_no_error(server: RunningServer) -> None:
    assert server.post("/api/models/unload").json()["state"] == "empty"


@pytest.mark.parametrize(
    ("body", "named"),
    [({}, "model_path"), ({"model_path": " "}, "model_path"), ({"model_path": "x", "backend": "y"}, "backend")],
)
def test_a_wrong_field_is_named(server: RunningServer, body: dict[str, str], named: str) -> None:
    status, code, message = error_of(server.post("/api/models/load", json=body))
    assert (status, code) == (400, "invalid_request")
    assert message.startswith(named)


def test_json_is_only_read_from_json(server: RunningServer) -> None:
    """A page of another site could send a form or plain text without asking the browser first."""
    reply = server.post("/api/knowledge-bases", content=b'{"name": "x"}', headers={"Content-Type": "text/plain"})
    assert error_of(reply)[0] == 400


def test_upload_wait_search_download_delete(server: RunningServer, base: str) -> None:
    content = (
        "# Harbour\n\nThe lighthouse keeper is called Ophelia Brandt.\n\n# 港口\n\n灯塔每十二秒闪一次。\n".encode()
    )
    (record,) = server.post(
        f"{base}/files", params={"wait": "true"}, files={"files": ("港口 notes.md", content, "text/markdown")}
    ).json()
    assert (record["name"], record["state"], record["error"]) == ("港口 notes.md", "searchable", "")
    assert record["passages"] >= 1
    assert record["size"] == len(content)
    assert server.get(f"{base}/files").json() == [record]
    assert server.get(f"{base}/files/{record['id']}").json() == record

    hits = server.post(f"{base}/search", json={"query": "Who keeps the lighthouse?", "top_k": 2}).json()["hits"]
    assert "Ophelia Brandt" in hits[0]["text"]
    assert {"text", "score", "file", "page", "heading", "passage_id"} <= hits[0].keys()
    assert hits[0]["file"] == "港口 notes.md"
    assert 0 < hits[0]["score"] <= 1
    assert len(hits) <= 2
    assert "十二秒" in server.post(f"{base}/search", json={"query": "灯塔多久闪一次"}).json()["hits"][0]["text"]

    assert server.get(f"{base}/files/{record['id']}/content").content == content
    assert server.delete(f"{base}/files/{record['id']}").status_code == 204
    assert server.get(f"{base}/files").json() == []
    assert error_of(server.get(f"{base}/files/{record['id']}/content"))[0] == 404
    assert server.post(f"{base}/search", json={"query": "lighthouse"}).json() == {"hits": []}


@pytest.mark.parametrize("name", ["x.html", "x.svg", 'quote".txt', "新.txt"])
def test_a_document_is_always_a_download_and_never_a_page(server: RunningServer, base: str, name: str) -> None:
    script = f"<script>alert({uuid.uuid4().int})</script> and enough words to read.".encode()
    (record,) = server.post(f"{base}/files", files={"files": (name, script)}).json()
    if not record["id"]:
        return  # refused as unsupported when it was stored: nothing to download
    reply = server.get(f"{base}/files/{record['id']}/content")
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_one_bad_file_among_good_ones_is_named_and_the_others_are_searchable(server: RunningServer, base: str) -> None:
    files = [("files", (f"good {number}.txt", f"Fact {number}: the tide turns.".encode())) for number in range(3)]
    files.insert(1, ("files", ("broken.pdf", b"%PDF-1.7 this is no PDF")))
    files.insert(2, ("files", ("empty.txt", b"")))
    records = server.post(f"{base}/files", params={"wait": "true"}, files=files).json()
    assert [record["name"] for record in records] == [
        "good 0.txt",
        "broken.pdf",
        "empty.txt",
        "good 1.txt",
        "good 2.txt",
    ]
    assert [record["state"] for record in records] == ["searchable", "failed", "failed", "searchable", "searchable"]
    for failed in records[1:3]:
        assert failed["reason"] in ("damaged", "empty")
        assert failed["error"]
        assert "/" not in failed["error"]


HOSTILE_NAMES = (
    "../../escape.txt",
    "/etc/cron.d/escape.txt",
    "..\\..\\escape.txt",
    "a/../../escape.txt",
    ".",
    "..",
    "con.txt",
    "x" * 5_000 + ".txt",
    "nul\x00byte.txt",
    "<script>alert(1)</script>.txt",
    "‮fdp.txt",
    "%2e%2e%2fescape.txt",
    " ",
)


def test_a_hostile_name_is_only_a_label(start_server: object, tmp_path: Path) -> None:
    running: RunningServer = start_server()  # type: ignore[operator]
    running.post("/api/knowledge-bases", json={"name": "names"})
    for number, name in enumerate(HOSTILE_NAMES):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="'
            + name.encode()
            + f'"\r\n\r\ncontent number {number}\r\n--b--\r\n'.encode()
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        reply = running.post("/api/knowledge-bases/names/files", content=body, headers=headers)
        assert reply.status_code in (202, 400), reply.text
    stored = {path.name for path in tmp_path.rglob("*")}
    assert not any("escape" in name or "script" in name or "cron" in name for name in stored)
    for record in running.get("/api/knowledge-bases/names/files").json():
        assert all(character in "0123456789abcdef" for character in record["id"])


def test_nothing_is_left_of_an_upload_that_was_refused(server: RunningServer, base: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (
        b"",
        b"--b\r\n",
        b"--x\r\n\r\n--x--",
        b"--b\r\nContent-Disposition: form-data; name=files\r\n\r\nx\r\n--b--",
    ):
        assert error_of(server.post(f"{base}/files", content=body, headers=headers))[:2] == (400, "invalid_request")
    assert error_of(server.post(f"{base}/files", content=b"x"))[0] == 400
    assert error_of(server.post(f"{base}/files", files=[("files", (f"{n}", b"x")) for n in range(201)]))[0] == 413
    assert os.listdir(server.data_dir / "incoming") == []
    assert server.get(f"{base}/files").json() == []


def test_an_upload_that_is_broken_off_leaves_nothing_and_is_no_error(server: RunningServer, base: str) -> None:
    path = base.replace("手册 ", "%E6%89%8B%E5%86%8C%20")
    head = (
        f"POST {path}/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 1000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="x.txt"\r\n\r\nbeginning'
    )
    incoming = server.data_dir / "incoming"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        wait_until(lambda: os.listdir(incoming) != [])
    wait_until(lambda: os.listdir(incoming) == [])
    assert server.get(f"{base}/files").json() == []
    assert "unexpected error" not in server.log


def wait_until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


FIELD = b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
FLOODS = {
    "one huge field that is no file": FIELD + b"x" * 10_000_000 + b"\r\n--b--",
    "many fields": (FIELD + b"1\r\n") * 50_000 + b"--b--",
    "many headers": b"--b\r\n" + b"X: y\r\n" * 100_000 + b"\r\n\r\n--b--",
    "a long header": b"--b\r\nX: " + b"y" * 5_000_000 + b"\r\n\r\n--b--",
    "empty lines": b"\r\n" * 2_500_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_multipart_is_refused_while_others_are_served(server: RunningServer, base: str, flood: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    before = memory_of(server)
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(server.post, f"{base}/files", content=FLOODS[flood], headers=headers)
        with server.client(timeout=5.0) as other:
            while not refused.done():
                assert other.get("/health").status_code == 200
    assert refused.result().status_code == 400
    assert memory_of(server) - before < 50 * 1024 * 1024


def memory_of(server: RunningServer) -> int:
    """Resident bytes of the server's process."""
    return psutil.Process(server.process.pid).memory_info().rss


def test_what_is_not_there_is_a_404(server: RunningServer, base: str) -> None:
    unknown = f"/api/knowledge-bases/{uuid.uuid4().hex}"
    for reply in (
        server.get(f"{unknown}/files"),
        server.post(f"{unknown}/files", files={"files": ("x.txt", b"x")}),
        server.post(f"{unknown}/search", json={"query": "x"}),
        server.delete(unknown),
        server.get(f"{base}/files/{uuid.uuid4().hex}"),
        server.delete(f"{base}/files/{uuid.uuid4().hex}"),
        server.get(f"{base}/files/..%2f..%2fquartet.lock/content"),
        server.get("/api/nothing"),
        server.post("/api"),
    ):
        assert error_of(reply)[:2] == (404, "not_found"), reply.request.url


def test_a_method_that_an_address_does_not_take_is_a_405(server: RunningServer) -> None:
    assert error_of(server.delete("/api/status"))[:2] == (405, "method_not_allowed")


def test_an_empty_knowledge_base_has_no_hits(server: RunningServer, base: str) -> None:
    reply = server.post(f"{base}/search", json={"query": "anything?"})
    assert (reply.status_code, reply.json()) == (200, {"hits": []})


def test_a_name_that_is_taken_is_a_409(server: RunningServer, base: str) -> None:
    reply = server.post("/api/knowledge-bases", json={"name": base.rsplit("/", 1)[1]})
    assert error_of(reply)[:2] == (409, "conflict")


def test_a_deleted_knowledge_base_is_gone(server: RunningServer, base: str) -> None:
    server.post(f"{base}/files", params={"wait": "true"}, files={"files": ("x.txt", b"Some words to keep.")})
    assert server.delete(base).status_code == 204
    assert base.rsplit("/", 1)[1] not in [entry["name"] for entry in server.get("/api/knowledge-bases").json()]


def test_the_docs_page_lists_every_route_and_loads_nothing_from_elsewhere(server: RunningServer) -> None:
    page = server.get("/docs")
    for path in server.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "model_path" in page.text
    assert "src=" not in page.text
    assert "http" not in page.text.replace("http-equiv", "")


def test_the_openapi_document_describes_the_routes(server: RunningServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert {"/", "/health", "/api/status", "/api/models/load", "/api/knowledge-bases/{name}/search"} <= paths.keys()
    assert "multipart/form-data" in paths["/api/knowledge-bases/{name}/files"]["post"]["requestBody"]["content"]
    assert not any(path.startswith("/gradio_api") for path in paths)


def test_of_two_files_of_one_name_the_second_stays_and_the_first_is_told_to_be_replaced(
    server: RunningServer, base: str
) -> None:
    files = [("files", ("door.txt", f"The code of the door is {code}.")) for code in (1111, 2222)]
    first, second = server.post(f"{base}/files?wait=true", files=files).json()
    assert (second["state"], second["name"]) == ("searchable", "door.txt")
    # The first was searchable for a moment, or was overtaken before.
    assert first["state"] == "searchable" or (first["state"], first["reason"]) == ("failed", "replaced")
    assert [record["id"] for record in server.get(f"{base}/files").json()] == [second["id"]]


def test_a_file_on_its_way_is_cancelled_and_read_again(server: RunningServer, base: str) -> None:
    text = "\n\n".join(f"Entry {n}. " + f"Words of number {n} without end. " * 30 for n in range(3_000))
    (record,) = server.post(f"{base}/files", files={"files": ("long.txt", text)}).json()
    assert record["state"] == "uploaded"
    path = f"{base}/files/{record['id']}"
    cancelled = server.post(f"{path}/cancel").json()
    assert (cancelled["state"], cancelled["reason"]) == ("failed", "cancelled")
    assert server.get(path).json()["state"] == "failed"
    (short,) = server.post(f"{base}/files?wait=true", files={"files": ("short.txt", "The roof is of copper.")}).json()
    assert short["state"] == "searchable"
    again = server.post(f"{base}/files/{short['id']}/reindex?wait=true")
    assert again.status_code == 202
    assert again.json() == {**short, "passages_per_second": 0.0, "seconds_left": None, "reindexing": ""}
    assert server.post(f"{base}/files/{short['id']}/cancel").json() == short  # finished: it stays as it is
    assert server.post(f"{base}/files/nothing/cancel").status_code == 404
    assert server.post(f"{base}/files/nothing/reindex").status_code == 404
