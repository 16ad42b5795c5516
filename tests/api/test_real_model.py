"""The article's call through every layer: flags, HTTP, chat service, supervised engine, real weights."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import psutil
import pytest
import websocket

from tests import checkpoints
from tests.running_server import RunningServer, running_server

GREEDY = {"do_sample": False, "max_new_tokens": 40}


@pytest.fixture(scope="module")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = str(checkpoints.knows_by_heart())
    with running_server(tmp_path_factory.mktemp("loaded"), "--model-path", folder) as server:
        yield server


@pytest.fixture
def loaded(_loaded: RunningServer, request: pytest.FixtureRequest) -> RunningServer:
    """A server that was started with a model which knows a few answers by heart."""
    request.node.servers = [_loaded]
    _loaded.wait_for_model()
    return _loaded


@pytest.mark.timeout(300)
def test_the_page_is_up_before_the_model_and_the_model_answers_when_it_is_ready(start_server: object) -> None:
    folder = str(checkpoints.knows_by_heart())
    running: RunningServer = start_server("--model-path", folder)  # type: ignore[operator]
    assert running.get("/").status_code == 200
    status = running.get("/api/status").json()["model"]
    if status["state"] == "loading":  # as good as always: the engine has torch to import
        assert status["loading"]
        health = running.get("/health").json()
        assert (health["live"], health["ready"], health["problems"]) == (True, False, ["The model is still loading."])
    running.wait_for_model()
    assert running.get("/health").json()["ready"]


@pytest.mark.parametrize(("question", "answer"), checkpoints.QUESTIONS.items())
def test_it_answers_what_it_knows_by_heart(loaded: RunningServer, question: str, answer: str) -> None:
    reply = loaded.post("/", json={"prompt": question, **GREEDY}).json()
    assert reply["response"].strip() == answer
    assert reply["history"] == [[question, reply["response"]]]
    assert reply["usage"]["completion_tokens"] > 0


def test_without_a_template_the_prompt_is_all_that_the_model_reads(loaded: RunningServer) -> None:
    question, answer = next(iter(checkpoints.QUESTIONS.items()))
    conversation = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"  # here the caller writes it
    body = {"prompt": conversation, "no_template": True, **GREEDY}
    assert loaded.post("/", json=body).json()["response"].strip() == answer
    with closing(websocket.create_connection(f"ws://127.0.0.1:{loaded.port}/", timeout=60)) as talk:
        for message in ({"prompt": "Who keeps the bees?", "use_stream_chat": False, **GREEDY}, body):
            talk.send(json.dumps(message))
            frames = [talk.recv(), talk.recv()]
        assert [frame.strip() for frame in frames] == [answer, "<EOS>"]  # the turn before is not part of it
    refused = loaded.post("/", json={**body, "system_prompt": "Be brief."})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "system_prompt")


def test_switching_over_http_changes_the_answers_and_a_failed_switch_does_not(loaded: RunningServer) -> None:
    question = "Who keeps the bees?"

    def answer() -> str:
        return str(loaded.post("/", json={"prompt": question, **GREEDY}).json()["response"]).strip()

    other, own = str(checkpoints.knows_other_answers()), str(checkpoints.knows_by_heart())
    with loaded.client(timeout=120) as client:
        assert client.post("/api/models/load", json={"model_path": other}).json()["state"] == "ready"
        assert answer() == checkpoints.OTHER_ANSWERS[question]
        failed = client.post("/api/models/load", json={"model_path": "/nowhere/at/all"})
        assert (failed.status_code, failed.json()["error"]["code"]) == (422, "model_unusable")
        assert answer() == checkpoints.OTHER_ANSWERS[question]
        assert client.post("/api/models/load", json={"model_path": own}).json()["state"] == "ready"
    assert answer() == checkpoints.QUESTIONS[question]


@pytest.mark.timeout(300)
def test_a_dropped_stream_frees_the_engine_at_once(start_server: object) -> None:
    folder = str(checkpoints.never_ends())
    running: RunningServer = start_server("--model-path", folder)  # type: ignore[operator]
    running.wait_for_model()
    body = {"prompt": "Tell me everything.", "use_stream_chat": True, "max_new_tokens": 8_000}
    with httpx.Client(trust_env=False, timeout=60) as client, client.stream("POST", running.url, json=body) as reply:
        parts = reply.iter_raw()
        next(parts)
        assert running.get("/api/status").json()["queue"] == 1
    left = time.monotonic()
    while running.get("/api/status").json()["queue"]:
        assert time.monotonic() - left < 3.0  # the promise is one second, on a machine that does nothing else
    engines = psutil.Process(running.process.pid).children(recursive=True)
    before = sum(cpu_seconds(engine) for engine in engines)
    time.sleep(1.0)
    # An engine that went on would have used most of that second.
    assert sum(cpu_seconds(engine) for engine in engines) - before < 0.3


def cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_is_left_when_the_server_ends_or_is_killed(start_server: object, number: signal.Signals) -> None:
    running: RunningServer = start_server("--model-path", str(checkpoints.knows_by_heart()))  # type: ignore[operator]
    running.wait_for_model()
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert children
    running.process.send_signal(number)
    running.process.wait(40)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
