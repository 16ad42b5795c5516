"""README's table of errors, read and held: each status is provoked on a real server, and says what the table says."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running_server import ROOT, RunningServer, StartServer, running_server
from tests.scripted_engine import ScriptedEngine

PASSWORD = "correct horse battery"
TOKEN = {"Authorization": "Bearer a-token-of-the-tests"}


def rows() -> dict[str, tuple[int, str]]:
    """Status and cause by code, of README's table."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| status | `code` |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {code.strip("`"): (int(status), cause) for status, codes, cause, _ in cells for code in codes.split(", ")}


@pytest.fixture(scope="module")
def narrow(_engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a token that gives one answer at a time and lets one question wait."""
    flags = ("--engine-url", _engine.url, "--max-in-flight", "1", "--max-waiting", "1")
    env = {"QUARTET_TOKEN": TOKEN["Authorization"].removeprefix("Bearer ")}
    with running_server(tmp_path_factory.mktemp("narrow"), *flags, env=env, headers=TOKEN) as server:
        yield server


def wrong_field(narrow: RunningServer, path: Path) -> httpx.Response:
    reply = narrow.post("/", json={"prompt": "Hello", "top_k": "many"})
    assert reply.json()["error"]["param"] == "top_k"
    assert "top_k" in reply.json()["error"]["message"]
    return reply


def no_token(narrow: RunningServer, path: Path) -> httpx.Response:
    return httpx.get(narrow.url + "/api/status", trust_env=False)


def another_site(narrow: RunningServer, path: Path) -> httpx.Response:
    return narrow.post("/", json={"prompt": "Hello"}, headers={"Origin": "https://elsewhere.example"})


def a_user_like_an_admin(narrow: RunningServer, path: Path) -> httpx.Response:
    with narrow.client() as bob:
        for name, role in (("ann", "admin"), ("bob", "user")):
            narrow.post("/api/users", json={"name": name, "role": role, "password": PASSWORD})
        del bob.headers["Authorization"]
        assert bob.post("/login", data={"name": "bob", "password": PASSWORD}).status_code == 303
        return bob.post("/api/models/unload")


def no_such_base(narrow: RunningServer, path: Path) -> httpx.Response:
    reply = narrow.post("/", json={"prompt": "Hello", "knowledge_base": "nowhere"})
    assert narrow.post("/v1/chat/completions", json={"model": "other", "messages": ASKED}).status_code == 404
    assert narrow.get("/api/nothing").status_code == 404
    return reply


def no_such_method(narrow: RunningServer, path: Path) -> httpx.Response:
    return narrow.delete("/api/status")


def the_name_is_taken(narrow: RunningServer, path: Path) -> httpx.Response:
    assert narrow.post("/api/knowledge-bases", json={"name": "twice"}).status_code == 201
    return narrow.post("/api/knowledge-bases", json={"name": "twice"})


def too_large(narrow: RunningServer, path: Path) -> httpx.Response:
    return narrow.post("/", content=b"x" * 3_000_000)


def not_a_model(narrow: RunningServer, path: Path) -> httpx.Response:
    return narrow.post("/api/models/inspect", json={"model_path": str(path)})


def too_many(narrow: RunningServer, path: Path) -> httpx.Response:
    endless = {"prompt": "Go on", "use_stream_chat": True}
    with narrow.client() as client, client.stream("POST", "/", json=endless) as answered, ThreadPoolExecutor() as pool:
        pieces = answered.iter_raw()
        next(pieces)
        waiting = pool.submit(narrow.post, "/", json={"prompt": "Short?", "max_new_tokens": 1})
        try:
            deadline = time.monotonic() + 60
            while not narrow.get("/api/status").json()["model"]["waiting"]:
                assert time.monotonic() < deadline, "the second question does not stand in line"
                time.sleep(0.02)
            reply = narrow.post("/", json={"prompt": "Hello?"})
        finally:
            answered.close()
        assert "1 answers are being given and 1 questions are in line" in reply.json()["error"]["message"]
        assert waiting.result(60).json()["response"] == "word1 "
    return reply


def the_engine_breaks(narrow: RunningServer, path: Path) -> httpx.Response:
    return narrow.post("/", json={"prompt": "Hello"})


ASKED = [{"role": "user", "content": "Hello"}]
PROVOKED: dict[str, Callable[[RunningServer, Path], httpx.Response]] = {
    "invalid_request": wrong_field,
    "unauthorized": no_token,
    "forbidden": a_user_like_an_admin,
    "forbidden_origin": another_site,
    "not_found": no_such_base,
    "method_not_allowed": no_such_method,
    "conflict": the_name_is_taken,
    "too_large": too_large,
    "model_unusable": not_a_model,
    "busy": too_many,
    "engine_failed": the_engine_breaks,
}
ELSEWHERE = ("forbidden_host", "no_model", "not_ready")  # below


def held(reply: httpx.Response, code: str) -> dict[str, Any]:
    """The error of an answer that is as the table says; its sentence has a cause and a remedy."""
    status, cause = rows()[code]
    error: dict[str, Any] = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert re.fullmatch(r".{20,400}\.", error["message"]), error["message"]
    if "`Retry-After`" in cause:
        assert int(reply.headers["retry-after"]) > 0
    return error


def test_each_row_is_provoked_here() -> None:
    assert set(rows()) == {*PROVOKED, *ELSEWHERE}


@pytest.mark.parametrize("code", PROVOKED)
def test_the_row(narrow: RunningServer, engine: ScriptedEngine, tmp_path: Path, code: str) -> None:
    narrow.wait_for_model()
    engine.words = 100_000 if code == "busy" else 5
    engine.seconds_per_word = 0.02 if code == "busy" else 0.0
    engine.breaks_after = 0 if code == "engine_failed" else None
    held(PROVOKED[code](narrow, tmp_path), code)


def test_without_a_model_a_question_is_told_to_come_back(server: RunningServer) -> None:
    for path, body in (("/", {"prompt": "Hello"}), ("/v1/chat/completions", {"messages": ASKED})):
        assert "Load one" in held(server.post(path, json=body), "no_model")["message"]


def test_while_the_first_model_is_loading_a_question_is_told_to_come_back(start_server: StartServer) -> None:
    # An address that takes the connection and never answers: a load that goes on for as long as is waited for it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = start_server("--engine-url", f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        assert "not ready yet" in held(running.post("/", json={"prompt": "Hello"}), "not_ready")["message"]


def test_without_a_token_only_names_of_this_machine_are_answered(server: RunningServer) -> None:
    held(server.get("/api/status", headers={"Host": "quartet.example"}), "forbidden_host")
