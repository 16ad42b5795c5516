"""Clients that never read, never finish or only trickle, against the real server: what they cost, and who notices.

That they are cut off, and when, is in test_serving.py, with shorter times.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from contextlib import ExitStack

import psutil
import pytest

from tests.running_server import RunningServer
from tests.scripted_engine import ScriptedEngine

MEBIBYTE = 1024 * 1024
HALF_OPEN, NEVER_READING = 200, 48
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def opened(server: RunningServer, sent: bytes) -> socket.socket:
    """A connection with small buffers on which this has been sent."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(sent)
    return connection


def never_reading(server: RunningServer, number: int) -> socket.socket:
    """Asks for an answer without end: the article's stream, OpenAI's events or a dialogue; and reads none of it."""
    token = f"Authorization: {server.headers['Authorization']}\r\n"
    if number % 3 == 2:
        connection = opened(server, f"{UPGRADE}{token}\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 101"
        question = b"go on"
        connection.sendall(bytes([0x81, 0x80 | len(question), 0, 0, 0, 0]) + question)  # text, whole, masked with 0
        return connection
    path, body = (
        ("/", {"prompt": "go on", "use_stream_chat": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "go on"}], "stream": True}),
    )[number % 3]
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}Content-Length: {len(data)}\r\n\r\n"
    return opened(server, head.encode() + data)


def half_open(server: RunningServer, number: int) -> socket.socket:
    """Begins and does not go on: nothing at all, half a head, half a body, or half a head and no more to come."""
    token = f"Authorization: {server.headers['Authorization']}\r\n".encode()
    half_a_head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    half_a_body = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + token + b"Content-Length: 1000\r\n\r\n{"
    connection = opened(server, (b"", half_a_head, half_a_body, half_a_head)[number % 4])
    if number % 4 == 3:
        connection.shutdown(socket.SHUT_WR)
    return connection


def seconds_of_a_question(server: RunningServer) -> float:
    """The median of several, each with an answer of three words."""
    times = []
    with server.client() as client:
        for _ in range(15):
            began = time.perf_counter()
            reply = client.post("/", json={"prompt": "Hello", "max_new_tokens": 3})
            assert reply.json()["response"] == "word1 word2 word3 "
            times.append(time.perf_counter() - began)
    return statistics.median(times)


@pytest.mark.timeout(240)
def test_rude_clients_cost_a_bounded_buffer_and_others_do_not_notice(
    answering: RunningServer, engine: ScriptedEngine
) -> None:
    engine.words, engine.seconds_per_word = 100_000, 0.002
    quartet = psutil.Process(answering.process.pid)
    alone, memory = seconds_of_a_question(answering), quartet.memory_info().rss
    with ExitStack() as rude:
        for number in range(HALF_OPEN):
            rude.enter_context(half_open(answering, number))
        for number in range(NEVER_READING):
            rude.enter_context(never_reading(answering, number))
        deadline = time.monotonic() + 60
        while engine.open < NEVER_READING:
            assert time.monotonic() < deadline, f"only {engine.open} are being answered"
            time.sleep(0.05)
        # What grows without bound would be gigabytes by then: an article's stream says all of it again with each word.
        most = engine.made + 2_000 * NEVER_READING
        while engine.made < most and time.monotonic() < deadline:
            time.sleep(0.1)
        crowded = seconds_of_a_question(answering)
        grown = quartet.memory_info().rss - memory
    assert grown < 300 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB"
    # 48 answers are made meanwhile on the processors that the others share.
    assert crowded < 20 * alone + 0.5, f"{alone:.3f} s alone, {crowded:.3f} s in the crowd"
    engine.wait_until_idle(60.0)
    assert answering.get("/api/status").json()["queue"] == 0
