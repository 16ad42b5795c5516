"""The article's HTTP call against the real server, with a scripted model behind it, and with none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import httpx
import pytest
import requests

from tests.running_server import ROOT, RunningServer, StartServer
from tests.scripted_engine import NAME, ScriptedEngine

CLIENT = ROOT.parent / "shared" / "seed" / "clients" / "http_client.py"
needs_client = pytest.mark.skipif(not CLIENT.is_file(), reason="the article's http_client.py is not beside the project")


def objects(body: bytes) -> list[dict[str, object]]:
    """The objects of a stream: each ends with a NUL byte."""
    assert body.endswith(b"\0")
    return [json.loads(part) for part in body[:-1].split(b"\0")]


def test_text_is_answered_with_text(answering: RunningServer, engine: ScriptedEngine) -> None:
    reply = answering.post("/", content="What is EasyCV, and how can it be used?")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text == engine.text(5)
    assert engine.requests[-1]["messages"][-1] == {
        "role": "user",
        "content": "What is EasyCV, and how can it be used?",
    }


def test_json_is_answered_with_the_whole_conversation(answering: RunningServer, engine: ScriptedEngine) -> None:
    body = {
        "prompt": "And in Java?",
        "system_prompt": "Act like you are programmer with 5+ years of experience.",
        "history": [["Sort a list in Python.", "sorted(list)"]],
        "max_new_tokens": 3,
        "temperature": 0.8,
        "top_k": 10,
        "top_p": 0.8,
        "do_sample": True,
        "seed": 3,
        "stop_sequences": ["###"],
    }
    reply = answering.post("/", json=body).json()
    assert reply == {
        "response": engine.text(3),
        "history": [["Sort a list in Python.", "sorted(list)"], ["And in Java?", engine.text(3)]],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        "sources": [],
    }
    asked = engine.requests[-1]
    assert [(message["role"], message["content"]) for message in asked["messages"]] == [
        ("system", "Act like you are programmer with 5+ years of experience."),
        ("user", "Sort a list in Python."),
        ("assistant", "sorted(list)"),
        ("user", "And in Java?"),
    ]
    assert (asked["max_tokens"], asked["temperature"], asked["top_k"], asked["top_p"]) == (3, 0.8, 10, 0.8)
    assert (asked["seed"], asked["stop"]) == (3, ["###"])


def test_the_key_of_the_engine_goes_to_the_engine(answering: RunningServer, engine: ScriptedEngine) -> None:
    answering.post("/", content="hello")
    assert engine.keys[-1] == "Bearer engine-key"


def test_a_stream_grows_and_its_last_object_is_complete(answering: RunningServer, engine: ScriptedEngine) -> None:
    reply = answering.post("/", json={"prompt": "hello", "use_stream_chat": "True"})
    parts = objects(reply.content)
    assert [part["response"] for part in parts] == [*(engine.text(count) for count in range(1, 6)), engine.text(5)]
    assert all(part["history"] == [["hello", part["response"]]] for part in parts)
    assert parts[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert parts[-1]["sources"] == []
    assert "usage" not in parts[0]


def test_a_stream_arrives_while_it_is_made(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.seconds_per_word = 0.2
    times = []
    with (
        answering.client() as client,
        client.stream("POST", "/", json={"prompt": "hello", "use_stream_chat": True}) as reply,
    ):
        for chunk in reply.iter_raw():
            times += [time.monotonic()] * chunk.count(b"\0")
    assert times[-1] - times[0] > 0.5  # the first object came long before the last


def test_protocol_one_streams_bare_text(answering: RunningServer, engine: ScriptedEngine) -> None:
    for stream in ("True", "False"):
        reply = answering.post("/", json={"input_ids": "hello", "use_stream_chat": stream, "stop": None})
        assert reply.text == engine.text(5)


def test_json_sent_as_a_form_is_json(answering: RunningServer) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = answering.post("/", content=b'{"prompt": "hello"}', headers=headers)
    assert reply.json()["history"][0][0] == "hello"


def test_a_model_may_be_named_if_it_is_the_one_in_service(answering: RunningServer) -> None:
    assert answering.post("/", json={"prompt": "hello", "model": NAME}).status_code == 200
    reply = answering.post("/", json={"prompt": "hello", "model": "gpt-9"})
    assert reply.status_code == 404
    assert NAME in reply.json()["error"]["message"]


def test_an_engine_that_breaks_off_is_told_in_the_stream(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.breaks_after = 2
    parts = objects(answering.post("/", json={"prompt": "hello", "use_stream_chat": True}).content)
    assert parts[-1]["response"] == engine.text(2)
    assert parts[-1]["error"]["code"] == "engine_failed"  # type: ignore[index]
    with pytest.raises(httpx.RemoteProtocolError):  # bare text has no place for it: the response stays unfinished
        answering.post("/", json={"input_ids": "hello", "use_stream_chat": True})
    reply = answering.post("/", json={"prompt": "hello"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(answering: RunningServer, engine: ScriptedEngine, stream: bool) -> None:
    engine.words, engine.seconds_per_word = 2_000, 0.01
    made_before = engine.made
    body = {"prompt": "long", "use_stream_chat": stream}
    with (
        answering.client(timeout=0.5) as client,
        suppress(httpx.ReadTimeout),  # how the client leaves that waits for the whole answer
        client.stream("POST", "/", json=body) as reply,
    ):
        next(reply.iter_raw())
    engine.wait_until_idle(1.0)
    stopped_at = engine.made
    assert 0 < stopped_at - made_before < 500
    time.sleep(0.3)
    assert engine.made == stopped_at


def test_many_may_ask_at_once(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 20, 0.01
    replies: list[str] = []
    threads = [
        threading.Thread(target=lambda: replies.append(answering.post("/", content="hello").text)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert replies == [engine.text(20)] * 16


@needs_client
@pytest.mark.parametrize("flags", [(), ("--no-stream",)])
def test_the_articles_own_client(answering: RunningServer, engine: ScriptedEngine, flags: tuple[str, ...]) -> None:
    run = subprocess.run(
        [
            sys.executable,
            str(CLIENT),
            answering.url + "/",
            "--authorization",
            answering.headers["Authorization"],
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert engine.text(5) in run.stdout
    assert "San Francisco is a" in run.stdout


@needs_client
def test_the_articles_curl_data(answering: RunningServer, engine: ScriptedEngine) -> None:
    for name in ("chatllm_data.txt", "chatllm_data.json"):
        data = (CLIENT.parent / name).read_bytes()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert engine.text(5) in answering.post("/", content=data, headers=headers).text


def test_without_a_model_the_chat_says_what_to_do(server: RunningServer) -> None:
    reply = server.post("/", content="hello")
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    error = reply.json()["error"]
    assert error["code"] == "no_model"
    assert "No language model is loaded" in error["message"]


def test_broken_json_is_a_400_that_shows_the_place(server: RunningServer) -> None:
    reply = server.post("/", content=b'{\n"prompt": "x"\n"top_k": 3}')
    assert reply.status_code == 400
    assert "line 3, column 1" in reply.json()["error"]["message"]


def test_an_answer_from_documents_names_its_sources(start_server: StartServer) -> None:
    running = start_server()

    def ask(**body: object) -> httpx.Response:
        return running.post("/", json={"prompt": "Which colour has the door?", "langchain": True, **body})

    reply = ask()
    assert reply.status_code == 400
    assert "no knowledge base" in reply.json()["error"]["message"]

    assert running.post("/api/knowledge-bases", json={"name": "房子"}).status_code == 201
    files = {"files": ("house.txt", b"The roof is grey. The door of the house has a vermilion colour. Cats sleep.")}
    added = running.post("/api/knowledge-bases/房子/files", files=files, params={"wait": "true"})
    assert [record["state"] for record in added.json()] == ["searchable"]

    answer = ask().json()  # the only knowledge base need not be named
    assert "vermilion" in answer["response"]
    assert answer["sources"][0]["file"] == "house.txt"
    assert answer["sources"][0]["number"] == 1
    assert 0 < answer["sources"][0]["score"] <= 1
    assert "vermilion" in answer["sources"][0]["text"]

    last = objects(ask(use_stream_chat=True).content)[-1]
    assert (last["response"], last["sources"]) == (answer["response"], answer["sources"])

    found = ask(mode="retrieve").json()
    assert found["response"].startswith("[1] house.txt\n")
    assert "vermilion" in found["response"]
    assert found["sources"] == answer["sources"]
    assert "notes" not in found
    assert ask(mode="retrieve", prompt="hello").json()["response"].startswith("Nothing in your documents")
    assert ask(mode="model").status_code == 503  # there is none
    assert ask(mode="other").status_code == 400

    assert running.post("/api/knowledge-bases", json={"name": "garden"}).status_code == 201
    reply = ask()
    assert reply.status_code == 400
    assert "garden" in reply.json()["error"]["message"]
    assert "房子" in reply.json()["error"]["message"]
    assert "vermilion" in ask(knowledge_base="房子").json()["response"]
    assert ask(knowledge_base=uuid.uuid4().hex).status_code == 404


def test_the_requests_library_reads_the_stream_as_the_article_does(answering: RunningServer) -> None:
    body = {"prompt": "hello", "use_stream_chat": True}
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(answering.headers)
        reply = session.post(answering.url, json=body, stream=True, timeout=30)
        lines = [line for line in reply.iter_lines(chunk_size=8192, delimiter=b"\0") if line]
    assert len(lines) == 6
