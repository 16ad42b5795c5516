"""The article's dialogue over WebSocket, against the real server: with its own client and with others."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.article_socket import EOS, MAX_WAITING
from tests.running_server import ROOT, RunningServer
from tests.scripted_engine import ScriptedEngine

CLIENT = ROOT.parent / "shared" / "seed" / "clients" / "websocket_client.py"
needs_client = pytest.mark.skipif(not CLIENT.is_file(), reason="the article's client is not beside the project")


@asynccontextmanager
async def talk(answering: RunningServer, token: str | None = None, **options: Any) -> AsyncIterator[ClientConnection]:
    headers = answering.headers if token is None else {"Authorization": token}
    url = answering.url.replace("http", "ws", 1)
    async with connect(url, additional_headers=headers, proxy=None, **options) as socket:
        yield socket


async def frames(socket: ClientConnection) -> list[str]:
    """All frames of one answer, its <EOS> left out."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while (frame := await socket.recv()) != EOS:
            assert isinstance(frame, str)
            found.append(frame)
    return found


async def send_and_read(socket: ClientConnection, messages: int) -> None:
    for _ in range(messages):
        await socket.send("Go on")
    async with asyncio.timeout(30):
        while True:
            await socket.recv()


async def test_text_is_answered_with_the_text_so_far(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 20, 0.02
    async with talk(answering) as socket:
        await socket.send("Count for me")
        found = await frames(socket)
    assert found[-1] == engine.text(20)
    assert len(found) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(found))


async def test_the_connection_keeps_settings_and_history(answering: RunningServer, engine: ScriptedEngine) -> None:
    async with talk(answering) as socket:
        await socket.send(json.dumps({"system_prompt": "You count.", "temperature": 0.5}).encode())
        assert await frames(socket) == []
        await socket.send("One?")
        await socket.send("Two?")
        await frames(socket)
        await frames(socket)
    said = engine.text(5).strip()
    asked = engine.requests[-1]
    assert asked["temperature"] == 0.5
    assert [(m["role"], m["content"].strip()) for m in asked["messages"]] == [
        ("system", "You count."),
        ("user", "One?"),
        ("assistant", said),
        ("user", "Two?"),
    ]


async def test_deltas_and_objects_on_request(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 10, 0.02
    async with talk(answering) as socket:
        await socket.send(json.dumps({"prompt": "Go", "stream_format": "delta"}))
        pieces = await frames(socket)
        await socket.send(json.dumps({"prompt": "Go", "stream_format": "json"}))
        objects = [json.loads(frame) for frame in await frames(socket)]
        await socket.send(json.dumps({"prompt": "Go", "stream_format": "text", "use_stream_chat": False}))
        whole = await frames(socket)
    assert len(pieces) > 2
    assert "".join(pieces) == engine.text(10)
    assert objects[-1]["response"] == engine.text(10)
    assert objects[-1]["history"][-1] == ["Go", engine.text(10)]
    assert set(objects[-1]) == {"response", "history", "usage", "sources"}
    assert whole == [engine.text(10)]


async def test_stop_ends_the_answer_and_keeps_the_connection(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 100_000, 0.01
    async with talk(answering) as socket:
        await socket.send("Go on")
        first = await socket.recv()
        await socket.send('{"type": "stop"}')
        await frames(socket)
        engine.wait_until_idle(limit=3.0)
        engine.words, engine.seconds_per_word = 5, 0.0
        await socket.send("Again")
        assert (await frames(socket))[-1] == engine.text(5)
    assert str(first).startswith("word1 ")
    assert engine.requests[-1]["messages"][1]["content"].startswith("word1 ")  # what was said before the stop


async def test_pings_are_answered_while_an_answer_is_given(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 100_000, 0.01
    async with talk(answering) as socket:
        await socket.send("Go on")
        await socket.recv()
        async with asyncio.timeout(10):
            await (await socket.ping())
    engine.wait_until_idle(limit=3.0)  # and the close stopped the generation


async def test_a_lost_peer_stops_the_generation(answering: RunningServer, engine: ScriptedEngine) -> None:
    engine.words, engine.seconds_per_word = 100_000, 0.01
    async with talk(answering) as socket:
        await socket.send("Go on")
        await socket.recv()
        socket.transport.abort()
        await asyncio.to_thread(engine.wait_until_idle, 3.0)


async def test_a_peer_that_leaves_in_the_middle_of_a_frame_is_nobodys_failure(
    answering: RunningServer, engine: ScriptedEngine
) -> None:
    engine.words, engine.seconds_per_word = 400, 0.001

    async def leaves(after: float) -> None:
        async with talk(answering) as socket:
            await socket.send("Count for me")
            await socket.recv()
            await asyncio.sleep(after)
            socket.transport.abort()

    await asyncio.gather(*(leaves(number / 200) for number in range(40)))
    await asyncio.to_thread(engine.wait_until_idle, 30.0)
    assert "Traceback" not in answering.log


async def test_what_is_wrong_is_said_in_a_frame_and_the_connection_goes_on(
    answering: RunningServer, engine: ScriptedEngine
) -> None:
    async with talk(answering) as socket:
        for message, named in (
            ('{"prompt": "a", "top_k": "many"}', "top_k must be a whole number"),
            ('{"prompt": True}', "line 1, column 12"),
            ('{"prompt": "a", "langchain": true}', "There is no knowledge base yet"),
            ('{"prompt": "a", "langchain": false, "model": "another"}', "leave out 'model'"),
        ):
            await socket.send(message)
            (frame,) = await frames(socket)
            assert named in json.loads(frame)["error"]["message"]
        await socket.send('{"prompt": "a", "model": null}')
        assert (await frames(socket))[-1] == engine.text(5)


async def test_who_may_not_come_in_does_not(answering: RunningServer) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with talk(answering, token="wrong"):
            pass
    with pytest.raises(InvalidStatus, match="403"):
        async with talk(answering, origin="https://elsewhere.example"):  # type: ignore[arg-type]
            pass


async def test_too_large_and_too_many_messages_close_the_connection(
    answering: RunningServer, engine: ScriptedEngine
) -> None:
    async with talk(answering) as socket:
        await socket.send("x" * 1_100_000)
        with pytest.raises(ConnectionClosed, match="1009"):
            await frames(socket)
    engine.words, engine.seconds_per_word = 100_000, 0.01
    async with talk(answering) as socket:
        with pytest.raises(ConnectionClosed, match=r"1013.*messages may wait"):
            await send_and_read(socket, MAX_WAITING + 5)
    engine.wait_until_idle(limit=3.0)


async def test_fifty_dialogues_at_once_each_get_their_own_answers(
    answering: RunningServer, engine: ScriptedEngine
) -> None:
    async def dialogue(number: int) -> None:
        async with talk(answering) as socket:
            for turn in range(3):
                await socket.send(json.dumps({"prompt": f"{number}/{turn}", "max_new_tokens": turn + 1}))
            for turn in range(3):
                assert (await frames(socket))[-1] == engine.text(turn + 1)

    await asyncio.gather(*(dialogue(number) for number in range(50)))
    # Every connection has its own history: nobody else's questions are in it.
    for request in engine.requests[-150:]:
        mine = {message["content"].partition("/")[0] for message in request["messages"] if message["role"] == "user"}
        assert len(mine) == 1


@needs_client
def test_the_articles_own_client_finishes_by_itself(answering: RunningServer, engine: ScriptedEngine) -> None:
    before = time.monotonic()
    url = answering.url.replace("http", "ws", 1)
    done = subprocess.run(
        [sys.executable, str(CLIENT), url, answering.headers["Authorization"], "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("### closed ###") == 6  # three dialogues, twice
    assert done.stdout.count(engine.text(5)) >= 2 * (1 + 4)  # the first and the second dialogue's answers
    assert time.monotonic() - before < 100
