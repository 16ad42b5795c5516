"""How large and how slow a request body may be, counted while it arrives, for every route and the mounted page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import shape

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Pace:
    """How long to wait for a body. `patience`: seconds without a byte, and the grace before the average rate counts;
    `slowest`: that rate, in bytes per second; `linger`: seconds in which the rest of a refused body is thrown away."""

    patience: float = 30.0
    slowest: float = 16 * 1024
    linger: float = 5.0


class _Refused(Exception):
    """The body is over a limit."""


class BodyLimits:
    """ASGI middleware: answers 413 to a body over `limit_of(path)` bytes and 408 to one that only trickles in.

    What the app has not read of a body when it has answered is thrown away, for a while.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int], pace: Pace | None = None) -> None:
        self.app = app
        self.limit_of = limit_of
        self.pace = pace or Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Body(self.limit_of(scope["path"]), self.pace, receive, send).serve(self.app, scope)


class _Body:
    """One request body on its way in."""

    def __init__(self, limit: int, pace: Pace, receive: Receive, send: Send) -> None:
        self.limit = limit
        self.pace = pace
        self.receive = receive
        self.send = send
        self.received = 0
        self.complete = False
        self.began = time.monotonic()
        self.refusal: JSONResponse | None = None
        self.answered = False

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        self.complete = declared == "0" and "transfer-encoding" not in headers
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > self.limit:
            self.refusal = self._too_large()
        else:
            try:
                await app(scope, self.counted, self.watched)
            except Exception:
                # What the app makes of a body that was cut off is not of interest.
                if self.refusal is None or self.answered:
                    raise
        if self.refusal is not None and not self.answered:
            await self._refuse(scope, self.refusal)

    async def counted(self) -> Message:
        """The app's receive."""
        if self.complete:
            return await self.receive()
        try:
            async with asyncio.timeout(self.pace.patience):
                message = await self.receive()
        except TimeoutError:
            self.refusal = self._too_slow()
            raise _Refused from None
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.received > self.limit:
                self.refusal = self._too_large()
                raise _Refused
            allowed = self.pace.patience + self.received / self.pace.slowest
            if not self.complete and time.monotonic() - self.began > allowed:
                self.refusal = self._too_slow()
                raise _Refused
        return message

    async def watched(self, message: Message) -> None:
        """The app's send; an answer to a body that was cut off is dropped, ours takes its place."""
        if self.refusal is not None and not self.answered:
            return
        self.answered = True
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self.complete:
            await self._end(message.get("body", b""))
        else:
            await self.send(message)

    async def _refuse(self, scope: Scope, refusal: JSONResponse) -> None:
        headers = [*refusal.raw_headers, (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": refusal.status_code, "headers": headers})
        await self._end(bytes(refusal.body))

    async def _end(self, body: bytes) -> None:
        """Send the last of an answer to a body that has not arrived whole."""
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        # Closing with unread bytes resets the connection, and the client would lose the answer it just got.
        try:
            async with asyncio.timeout(self.pace.linger):
                while not self.complete:
                    message = await self.receive()
                    self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        except TimeoutError:
            pass
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _too_large(self) -> JSONResponse:
        size = f"{self.limit // MEBIBYTE} MiB" if self.limit >= MEBIBYTE else f"{self.limit} bytes"
        return JSONResponse(shape("too_large", f"The request is over the limit of {size}: send less at once."), 413)

    def _too_slow(self) -> JSONResponse:
        return JSONResponse(shape("too_slow", "The request arrived too slowly and was given up: send it again."), 408)
