"""Clients that others wrote, against the real server: what they send is answered as they expect it.

The article's own clients are in test_article.py and test_article_socket.py (with `websockets`), OpenAI's and
LangChain's for it in test_openai.py.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import closing

import pytest
import websocket
from langchain_community.chat_models import PaiEasChatEndpoint
from langchain_community.llms.pai_eas_endpoint import PaiEasEndpoint
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from tests.running_server import RunningServer
from tests.scripted_engine import ScriptedEngine

TALK = [SystemMessage("Be brief."), HumanMessage("hello"), AIMessage("hi"), HumanMessage("and now?")]
SAID = ["Be brief.", "hello", "hi", "and now?"]


@pytest.fixture
def chat(answering: RunningServer) -> PaiEasChatEndpoint:
    token = answering.headers["Authorization"]
    return PaiEasChatEndpoint(eas_service_url=answering.url, eas_service_token=token, timeout=60)


def test_pai_eas_chat_endpoint(chat: PaiEasChatEndpoint, engine: ScriptedEngine) -> None:
    assert chat.invoke(TALK).content == engine.text(5)
    assert [message["content"] for message in engine.requests[-1]["messages"]] == SAID
    assert "".join(str(chunk.content) for chunk in chat.stream(TALK)) == engine.text(5)


def test_pai_eas_chat_endpoint_s_own_stream(chat: PaiEasChatEndpoint, engine: ScriptedEngine) -> None:
    """What it sends for a stream. Its `astream` takes the bytes that come back for text, and fails with any server."""
    body = {**chat.format_request_payload(TALK, temperature=0.5), "use_stream_chat": True}
    with closing(chat._call_eas_stream(body)) as reply:
        parts = [json.loads(chunk) for chunk in reply.iter_lines(chunk_size=8192, delimiter=b"\0") if chunk]
    assert [part["response"] for part in parts] == [*(engine.text(count) for count in range(1, 6)), engine.text(5)]
    assert [message["content"] for message in engine.requests[-1]["messages"]] == SAID


def test_pai_eas_endpoint(answering: RunningServer, engine: ScriptedEngine) -> None:
    client = PaiEasEndpoint(eas_service_url=answering.url, eas_service_token=answering.headers["Authorization"])
    assert client.invoke("What is it?", stop=["never said"]) == engine.text(5)
    # Each chunk of its stream is the answer so far: the last one is all of it.
    assert list(client.stream("What is it?", stop=["never said"]))[-1] == engine.text(5)


def test_websocket_client(answering: RunningServer, engine: ScriptedEngine) -> None:
    header = [f"Authorization: {answering.headers['Authorization']}"]
    url = answering.url.replace("http", "ws", 1)
    with closing(websocket.create_connection(url, header=header, timeout=60)) as talk:
        talk.send(json.dumps({"prompt": "How can I get there?", "system_prompt": "Be brief."}))
        talk.ping("are you there?")
        frames = []
        while (frame := talk.recv()) != "<EOS>":
            frames.append(frame)
        talk.send_binary(b"And back?")
        frames.append(talk.recv())
    assert frames[-2] == engine.text(5)
    assert engine.text(5).startswith(frames[-1])


def curl(server: RunningServer, *arguments: str) -> bytes:
    """What curl prints; it fails on a status over 399."""
    command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", "-m", "60", *arguments, server.url + "/"]
    command += ["-H", f"Authorization: {server.headers['Authorization']}"]
    return subprocess.run(command, capture_output=True, timeout=90, check=True).stdout


def test_curl_sends_text_and_json_as_a_form(answering: RunningServer, engine: ScriptedEngine) -> None:
    assert curl(answering, "-d", "What can you do?").decode() == engine.text(5)
    reply = json.loads(curl(answering, "-d", '{"prompt": "What can you do?"}'))
    assert reply["history"] == [["What can you do?", engine.text(5)]]


def test_curl_streams(answering: RunningServer, engine: ScriptedEngine) -> None:
    body = '{"prompt": "What can you do?", "use_stream_chat": true}'
    parts = [json.loads(part) for part in curl(answering, "-N", "-d", body).split(b"\0") if part]
    assert [part["response"] for part in parts] == [*(engine.text(count) for count in range(1, 6)), engine.text(5)]
    assert parts[-1]["usage"]["completion_tokens"] == 5
