"""What an operator sees of the running service: figures for Prometheus, numbered requests, JSON logs."""

from __future__ import annotations

import json
import time

from prometheus_client.parser import text_string_to_metric_families

from tests.running_server import RunningServer, StartServer

Samples = dict[tuple[str, tuple[str, ...]], float]


def figures(server: RunningServer) -> Samples:
    """Every sample by name and label values."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (sample.name, tuple(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def grown(before: Samples, after: Samples, name: str, *labels: str) -> float:
    """How much a figure has grown."""
    return after.get((name, labels), 0.0) - before.get((name, labels), 0.0)


def lines(server: RunningServer, **wanted: object) -> list[dict[str, object]]:
    """The JSON lines of the log that have these values; waits a little for the first one."""
    deadline = time.monotonic() + 10
    while True:
        log = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        found = [line for line in log if wanted.items() <= line.items()]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_answers_tokens_and_requests_are_counted(answering: RunningServer) -> None:
    before = figures(answering)
    assert answering.post("/", json={"prompt": "Hello?", "max_new_tokens": 3}).status_code == 200
    assert answering.post("/", json={"prompt": ""}).status_code == 400
    assert answering.get("/no/such/page/for/anybody").status_code == 404
    after = figures(answering)
    assert grown(before, after, "quartet_answers_total", "length") == 1
    assert grown(before, after, "quartet_tokens_total", "completion") == 3
    assert grown(before, after, "quartet_tokens_total", "prompt") > 0
    assert grown(before, after, "quartet_first_token_seconds_count") == 1
    assert grown(before, after, "quartet_requests_total", "POST", "/", "200") == 1
    assert grown(before, after, "quartet_requests_total", "POST", "/", "400") == 1
    assert after["quartet_model_ready", ()] == 1
    assert after["quartet_answers_in_flight", ()] == 0
    assert not any("nobody" in label or "anybody" in label for _, labels in after for label in labels)


def test_searches_and_their_hits_are_counted(answering: RunningServer) -> None:
    before = figures(answering)
    with answering.client(timeout=150) as client:
        client.post("/api/knowledge-bases", json={"name": "counted"}).raise_for_status()
        files = [("files", ("a.txt", b"The ferry leaves at nine from the northern pier."))]
        client.post("/api/knowledge-bases/counted/files", params={"wait": "true"}, files=files).raise_for_status()
        for query in ("When does the ferry leave?", "hello"):
            client.post("/api/knowledge-bases/counted/search", json={"query": query}).raise_for_status()
        client.delete("/api/knowledge-bases/counted").raise_for_status()
    after = figures(answering)
    assert grown(before, after, "quartet_retrieval_seconds_count") == 2
    assert grown(before, after, "quartet_hits_total", "used") == 1
    assert grown(before, after, "quartet_hits_total", "rejected") == 1


def test_the_figures_are_behind_the_token(answering: RunningServer) -> None:
    with answering.client() as client:
        client.headers.pop("Authorization")
        assert client.get("/metrics").status_code == 401


def test_a_request_has_a_number_in_its_answer_and_in_the_log(answering: RunningServer) -> None:
    with answering.client() as client:
        given = client.post("/?secret=query", json={"prompt": "Hello?"}, headers={"X-Request-ID": "order-66"})
        forged = client.get("/health", headers={"X-Request-ID": 'x" level="info'})
    assert given.headers["x-request-id"] == "order-66"
    assert len(forged.headers["x-request-id"]) == 16
    (line,) = lines(answering, request_id="order-66")
    assert (line["method"], line["path"], line["status"], line["client"]) == ("POST", "/", 200, "127.0.0.1")
    assert line["level"] == "info"
    assert lines(answering, request_id=forged.headers["x-request-id"])
    assert answering.headers["Authorization"] not in answering.log
    assert "secret=query" not in answering.log


def test_without_json_the_log_stays_quiet(start_server: StartServer) -> None:
    server = start_server()
    assert server.get("/health").headers["x-request-id"]
    assert "/health" not in server.log
