"""Answers that are made while the client waits, and stopped when it leaves. Knows no route."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class LiveResponse(Response):
    """Runs `work(scope, receive, send)`, which sends the whole response, and cancels it as soon as the client is gone.

    The work runs in one task from start to end, so an async generator inside it is opened, read and closed in the
    same task. What it raises before it sent anything goes to the error handlers as if the route had raised it.
    """

    def __init__(self, work: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def run() -> None:
            await self._work(scope, receive, send)

        work = asyncio.create_task(run())
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait({work, gone})
        if not work.cancelled():
            work.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send: Send, media_type: str) -> None:
    """Begin a streamed response of unknown length."""
    headers = [(b"content-type", media_type.encode("ascii")), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def write(send: Send, data: bytes) -> None:
    """Send one piece of a streamed response."""
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def finish(send: Send) -> None:
    """End a streamed response."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})
