"""Limits and patience of the server itself, with rude clients on real sockets. Times are shortened, nothing else."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from api import live
from api.limits import BodyLimits, Pace
from api.serving import PatientProtocol, PatientSocket, Server

LIMIT = 100_000


class ImpatientProtocol(PatientProtocol):
    head_limit = 0.3
    stall_limit = 0.5


class ImpatientSocket(PatientSocket):
    stall_limit = 0.5


class ShortServer(Server):
    protocol = ImpatientProtocol
    socket_protocol = ImpatientSocket
    drain = 5.0


class Counts:
    """What the app under test has seen."""

    def __init__(self) -> None:
        self.answers = 0  # being made
        self.ended = asyncio.Event()
        self.drained: list[int] = []


def application(counts: Counts, swallow: bool = False) -> ASGIApp:
    async def size(request: Request) -> Response:
        try:
            return PlainTextResponse(str(len(await request.body())))
        except Exception:
            if not swallow:
                raise
            return PlainTextResponse("whatever the app makes of it", 400)

    async def refused(request: Request) -> Response:
        return PlainTextResponse("not for you", 401)

    async def endless(request: Request) -> Response:
        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            counts.answers += 1
            try:
                await live.start(send, "text/plain")
                while True:
                    await live.write(send, b"x" * 65_536)
                    await asyncio.sleep(0)
            finally:
                counts.answers -= 1
                counts.ended.set()

        return live.LiveResponse(work)

    async def slow(request: Request) -> Response:
        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            counts.answers += 1
            try:
                await live.start(send, "text/plain")
                for _ in range(10):
                    await live.write(send, b"word ")
                    await asyncio.sleep(0.1)
                await live.finish(send)
            finally:
                counts.answers -= 1

        return live.LiveResponse(work)

    async def open_page(request: Request) -> Response:
        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            await live.start(send, "text/event-stream")
            await live.write(send, b"alive")
            await asyncio.sleep(3600)

        return live.LiveResponse(work)

    async def talk(socket: WebSocket) -> None:
        """Ten words, or frames without end, as the client says."""
        await socket.accept()
        many = await socket.receive_text() == "many"
        counts.answers += 1
        try:
            for _ in itertools.count() if many else range(10):
                await socket.send_text("x" * 65_536 if many else "word")
                await asyncio.sleep(0 if many else 0.1)
        finally:
            counts.answers -= 1
            counts.ended.set()
        await socket.receive()

    routes = [
        WebSocketRoute("/talk", talk),
        Route("/size", size, methods=["POST"]),
        Route("/refused", refused, methods=["POST"]),
        Route("/endless", endless),
        Route("/slow", slow),
        Route("/page", open_page),
    ]
    return BodyLimits(Starlette(routes=routes), lambda path: LIMIT, Pace(patience=0.4, slowest=50_000, linger=2.0))


@asynccontextmanager
async def serving(counts: Counts, swallow: bool = False) -> AsyncIterator[tuple[ShortServer, int, asyncio.Task[None]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    up = asyncio.Event()
    server = ShortServer(application(counts, swallow), up.set, lambda: counts.answers, counts.drained.append)
    task = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.wait_for(up.wait(), 10)
        yield server, listener.getsockname()[1], task
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait_for(task, 20)


async def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send the pieces, then read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head(extra: str) -> bytes:
    return f"POST /size HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{extra}\r\n\r\n".encode()


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_body_over_the_limit_is_refused_and_the_client_can_read_why(swallow: bool) -> None:
    async with serving(Counts(), swallow) as (_, port, _), httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}/size"
        assert (await client.post(url, content=b"x" * LIMIT)).text == str(LIMIT)
        # httpx sends all of it before it reads: the answer must still get through.
        reply = await client.post(url, content=b"x" * 5_000_000)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 10_000

        reply = await client.post(url, content=chunks())
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")


async def test_who_is_refused_while_still_sending_can_read_why() -> None:
    async with serving(Counts()) as (_, port, _):
        request = head("Content-Length: 90000").replace(b"/size", b"/refused")
        reply = await exchange(port, request + b"x" * 30_000, b"x" * 30_000, b"x" * 30_000, pause=0.1)
        assert reply.startswith(b"HTTP/1.1 401")
        assert reply.endswith(b"not for you")


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 30, "0x10"])
async def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    async with serving(Counts()) as (_, port, _):
        reply = await exchange(port, head(f"Content-Length: {length}"), b"x")
        assert reply.split(b" ")[1] in (b"400", b"413")


async def test_a_body_that_stops_coming_is_given_up() -> None:
    async with serving(Counts()) as (_, port, _):
        reply = await exchange(port, head("Content-Length: 1000"), b"some")
        assert reply.split(b" ")[1] == b"408"
        assert b"too_slow" in reply


async def test_a_body_that_trickles_is_given_up() -> None:
    async with serving(Counts()) as (_, port, _):
        reply = await exchange(port, head("Content-Length: 1000"), *[b"x"] * 12, pause=0.1)
        assert reply.split(b" ")[1] == b"408"


@pytest.mark.parametrize("sent", [b"", b"GET /slow HTT", b"GET /slow HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_half_sent_request_is_closed(sent: bytes) -> None:
    async with serving(Counts()) as (_, port, _):
        began = asyncio.get_running_loop().time()
        assert await exchange(port, sent) == b""
        assert asyncio.get_running_loop().time() - began < 5


async def test_a_second_request_that_is_half_sent_is_closed_too() -> None:
    async with serving(Counts()) as (_, port, _):
        first = b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        reply = await exchange(port, first, b"POST /size HT", pause=0.2)
        assert reply.startswith(b"HTTP/1.1 200")


ENDLESS_HEAD = [b"GET /slow HTTP/1.1\r\nHost: localhost\r\n", *[b"X-Long: " + b"x" * 30_000 + b"\r\n"] * 5]
ENDLESS_VALUE = [b"GET /slow HTTP/1.1\r\nHost: localhost\r\nX-Long: ", *[b"x" * 30_000] * 5]
ENDLESS_TRAILER = [head("Transfer-Encoding: chunked"), b"1\r\nx\r\n0\r\n", *[b"X-Long: " + b"x" * 30_000 + b"\r\n"] * 5]
ENDLESS_CHUNK_SIZE = [head("Transfer-Encoding: chunked"), b"1;", *[b"x" * 30_000] * 5]


@pytest.mark.parametrize("sent", [ENDLESS_HEAD, ENDLESS_VALUE, ENDLESS_TRAILER, ENDLESS_CHUNK_SIZE])
async def test_a_head_without_end_is_refused_wherever_it_stands(sent: list[bytes]) -> None:
    async with serving(Counts()) as (_, port, _):
        reply = await exchange(port, *sent, pause=0.01)
        # A client that is still sending may lose the answer to the reset, but never keeps the connection.
        assert reply == b"" or reply.split(b" ")[1] == b"400"


async def test_a_body_in_the_smallest_pieces_is_taken() -> None:
    async with serving(Counts()) as (_, port, _):
        pieces = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
        reply = await exchange(port, head("Transfer-Encoding: chunked") + pieces)
        assert reply.endswith(b"20000")


async def test_a_request_that_came_in_time_may_take_its_time() -> None:
    async with serving(Counts()) as (_, port, _):
        request = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await exchange(port, request)).count(b"word ") == 10


async def test_a_client_that_does_not_read_is_cut_off_and_its_answer_stopped() -> None:
    counts = Counts()
    async with serving(counts) as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(counts.ended.wait(), 10)
        assert counts.answers == 0
        writer.close()
        del reader


async def test_a_client_that_reads_a_byte_now_and_then_is_cut_off_too() -> None:
    counts = Counts()
    async with serving(counts) as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            while not counts.ended.is_set():
                assert len(await reader.read(1)) == 1
                await asyncio.sleep(0.05)
        assert counts.answers == 0
        writer.close()


async def test_two_hundred_half_sent_requests_are_closed_and_others_are_answered_meanwhile() -> None:
    async with serving(Counts()) as (_, port, _), httpx.AsyncClient(trust_env=False) as client:
        half = asyncio.gather(*(exchange(port, b"GET /slow HTTP/1.1\r\nHost: ") for _ in range(200)))
        replies = [await client.post(f"http://127.0.0.1:{port}/size", content=b"12345") for _ in range(20)]
        assert [reply.text for reply in replies] == ["5"] * 20
        assert await half == [b""] * 200


async def test_a_websocket_client_that_does_not_read_is_cut_off_too() -> None:
    counts = Counts()
    async with serving(counts) as (_, port, _):
        client = await connect(f"ws://127.0.0.1:{port}/talk", proxy=None, max_queue=1, compression=None)
        await client.send("many")
        await asyncio.wait_for(counts.ended.wait(), 10)
        assert counts.answers == 0
        client.transport.abort()
        await client.wait_closed()


async def stop_during(path: str, stop: Callable[[ShortServer], None], counts: Counts) -> bytes:
    """What a client that has begun to read still gets after the server was told to stop."""
    async with serving(counts) as (server, port, task):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = await reader.readuntil(b"\r\n\r\n")
        stop(server)
        with suppress(ConnectionResetError):
            got += await asyncio.wait_for(reader.read(), 10)
        await asyncio.wait_for(asyncio.shield(task), 10)
        writer.close()
        return got


def terminate(server: ShortServer) -> None:
    signal.raise_signal(signal.SIGTERM)


def terminate_twice(server: ShortServer) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)


async def test_an_answer_under_way_is_finished_before_the_end() -> None:
    counts = Counts()
    assert (await stop_during("/slow", terminate, counts)).count(b"word ") == 10
    assert counts.drained == [1]


async def test_an_answer_over_a_websocket_is_finished_before_the_end_and_then_told_why() -> None:
    counts = Counts()
    async with serving(counts) as (server, port, task):
        async with connect(f"ws://127.0.0.1:{port}/talk", proxy=None) as client:
            await client.send("ten words")
            assert await client.recv() == "word"
            terminate(server)
            words = [word async for word in _until_closed(client)]
        await asyncio.wait_for(asyncio.shield(task), 10)
    assert words == ["word"] * 9
    assert client.close_code == 1012  # service restart


async def _until_closed(client: ClientConnection) -> AsyncIterator[str]:
    with suppress(ConnectionClosed):
        async with asyncio.timeout(10):
            while True:
                yield str(await client.recv())


async def test_an_open_page_does_not_hold_up_the_end() -> None:
    counts = Counts()
    began = asyncio.get_running_loop().time()
    await stop_during("/page", terminate, counts)
    assert asyncio.get_running_loop().time() - began < 4
    assert counts.drained == []


async def test_a_second_signal_ends_it_without_waiting() -> None:
    assert (await stop_during("/slow", terminate_twice, Counts())).count(b"word ") < 10
