"""Runs an ASGI app with uvicorn: its limits, its patience with slow clients, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class ReadsInTime(asyncio.Protocol):
    """A connection that is cut off when the client leaves our bytes unread; what it may leave is bounded by asyncio."""

    stall_limit = 30.0  # seconds

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.stall_limit, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reads_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reads_again()
        super().connection_lost(exc)

    def _reads_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class PatientProtocol(ReadsInTime, HttpToolsProtocol):
    """HTTP/1.1 that gives up on clients which do not finish their request head or do not read their answer."""

    head_limit = 15.0  # seconds for the head of a request, counted from the opening or from its first byte
    head_size = 65_536  # bytes; also of what else comes around a body: sizes of its chunks, trailers

    _deadline: asyncio.TimerHandle | None = None
    _headed = False  # the head of the request at hand is complete
    _body = 0  # bytes of bodies, on this connection
    _around = 0  # bytes around the body of the request at hand

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        before = self._body
        super().data_received(data)
        self._around += len(data) - (self._body - before)
        # A byte in a chunk of its own has five around it, which a poor client may do and an attack should not.
        if self._around > self.head_size + 8 * self._body and self.transport.get_protocol() is self:
            self.send_400_response("The request head is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headed, self._around = False, 0
        if self._deadline is None:
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # trailers mean nothing to us
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headed = True
        self._in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_limit, self._no_head)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _no_head(self) -> None:
        # After an upgrade the connection belongs to another protocol, which has its own pings.
        if self.transport.get_protocol() is self:
            self.transport.abort()


class PatientSocket(ReadsInTime, WebSocketsSansIOProtocol):
    """A WebSocket that gives up on a client which does not read; pings tell one that is gone."""


class Server(uvicorn.Server):
    """Calls `on_listening` once requests are taken. On SIGINT or SIGTERM it takes no more, lets the `busy()` answers
    finish for up to `drain` seconds, and then closes what is left: an open page would keep its connection for ever."""

    protocol: type[PatientProtocol] = PatientProtocol
    socket_protocol: type[PatientSocket] = PatientSocket
    drain = 30.0

    def __init__(
        self,
        app: ASGIApp,
        on_listening: Callable[[], None],
        busy: Callable[[], int],
        on_drain: Callable[[int], None],
        connections: int = 512,
    ) -> None:
        """`connections` at once; who comes when they are taken is sent away without an answer of ours."""
        super().__init__(
            uvicorn.Config(
                app,
                http=self.protocol,
                ws=self.socket_protocol,
                log_config=None,
                access_log=False,
                limit_concurrency=connections,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=5,
                ws_max_size=1_048_576,
                ws_max_queue=16,
                proxy_headers=False,
                server_header=False,
            )
        )
        self._on_listening = on_listening
        self._busy = busy
        self._on_drain = on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if not isinstance(connection, PatientSocket):  # its answers would be cut off
                connection.shutdown()
        if self._busy():
            self._on_drain(self._busy())
        loop = asyncio.get_running_loop()
        end = loop.time() + self.drain
        while self._busy() and loop.time() < end and not self.force_exit:  # noqa: ASYNC110  a count, not an event
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)  # the last bytes of the last answers
        for connection in list(self.server_state.connections):
            if not isinstance(connection, PatientSocket):  # those are told by what follows
                connection.transport.abort()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals for ourselves: uvicorn would raise them again at the end and spoil the exit code."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        """The first signal ends the service in good order; the second one does not wait for answers under way."""
        self.force_exit = self.should_exit
        self.should_exit = True
