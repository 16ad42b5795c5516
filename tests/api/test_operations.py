"""What an operator sees of the running service: figures for Prometheus, numbered requests, JSON logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running_server import RunningServer, StartServer, running_server
from tests.scripted_engine import ScriptedEngine, scripted_engine

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder, headers = tmp_path_factory.mktemp("watched"), {"Authorization": TOKEN}
    flags = ("--engine-url", engine.url, "--log-format", "json")
    with running_server(folder, *flags, env={"QUARTET_TOKEN": TOKEN}, headers=headers) as server:
        server.wait_for_model()
        yield server


def figures(server: RunningServer) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (sample.name, tuple(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def lines(server: RunningServer, **wanted: object) -> list[dict[str, object]]:
    """The JSON lines of the log that have these values; waits a little for the first one."""
    deadline = time.monotonic() + 10
    while True:
        log = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        found = [line for line in log if wanted.items() <= line.items()]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_answers_tokens_and_requests_are_counted(server: RunningServer) -> None:
    before = figures(server)
    assert server.post("/", json={"prompt": "Hello?", "max_new_tokens": 3}).status_code == 200
    assert server.post("/", json={"prompt": ""}).status_code == 400
    assert server.get("/no/such/page/for/anybody").status_code == 404
    after = figures(server)

    def grown(name: str, *labels: str) -> float:
        return after.get((name, labels), 0.0) - before.get((name, labels), 0.0)

    assert grown("quartet_answers_total", "length") == 1
    assert grown("quartet_tokens_total", "completion") == 3
    assert grown("quartet_tokens_total", "prompt") > 0
    assert grown("quartet_first_token_seconds_count") == 1
    assert grown("quartet_requests_total", "POST", "/", "200") == 1
    assert grown("quartet_requests_total", "POST", "/", "400") == 1
    assert after["quartet_model_ready", ()] == 1
    assert after["quartet_answers_in_flight", ()] == 0
    assert not any("nobody" in label or "anybody" in label for _, labels in after for label in labels)


def test_searches_and_their_hits_are_counted(server: RunningServer) -> None:
    with server.client() as client:
        client.post("/api/knowledge-bases", json={"name": "counted"}).raise_for_status()
        files = [("files", ("a.txt", b"The ferry leaves at nine from the northern pier."))]
        client.post("/api/knowledge-bases/counted/files", params={"wait": "true"}, files=files).raise_for_status()
        for query in ("When does the ferry leave?", "hello"):
            client.post("/api/knowledge-bases/counted/search", json={"query": query}).raise_for_status()
    after = figures(server)
    assert after["quartet_retrieval_seconds_count", ()] == 2
    assert after["quartet_hits_total", ("used",)] == 1
    assert after["quartet_hits_total", ("rejected",)] == 1


def test_the_figures_are_behind_the_token(server: RunningServer) -> None:
    with server.client() as client:
        client.headers.pop("Authorization")
        assert client.get("/metrics").status_code == 401


def test_a_request_has_a_number_in_its_answer_and_in_the_log(server: RunningServer) -> None:
    with server.client() as client:
        given = client.post("/?secret=query", json={"prompt": "Hello?"}, headers={"X-Request-ID": "order-66"})
        forged = client.get("/health", headers={"X-Request-ID": 'x" level="info'})
    assert given.headers["x-request-id"] == "order-66"
    assert len(forged.headers["x-request-id"]) == 16
    (line,) = lines(server, request_id="order-66")
    assert (line["method"], line["path"], line["status"], line["client"]) == ("POST", "/", 200, "127.0.0.1")
    assert line["level"] == "info"
    assert lines(server, request_id=forged.headers["x-request-id"])
    assert TOKEN not in server.log
    assert "secret=query" not in server.log


def test_more_than_may_stand_in_line_are_told_to_come_back(start_server: StartServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 100_000, 0.02
    server = start_server("--engine-url", engine.url, "--max-in-flight", "1", "--max-waiting", "1")
    server.wait_for_model()
    endless = {"prompt": "Go on", "use_stream_chat": True}
    with server.client() as client, client.stream("POST", "/", json=endless) as answered:
        pieces = answered.iter_raw()
        next(pieces)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(server.post, "/", json={"prompt": "Short?", "max_new_tokens": 1})
            while server.get("/api/status").json()["model"]["waiting"] == 0:
                time.sleep(0.02)
            refused = server.post("/", json={"prompt": "Hello?"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert "1 answers are being given and 1 questions are in line" in refused.json()["error"]["message"]
            answered.close()
            assert waiting.result(30).json()["response"] == "word1 "


def test_without_json_the_log_stays_quiet(start_server: StartServer) -> None:
    server = start_server()
    assert server.get("/health").headers["x-request-id"]
    assert "/health" not in server.log
