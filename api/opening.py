"""The first second: the page is served at once, and what needs the documents waits until they are open."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send


class HoldUntilOpen:
    """ASGI middleware: holds every request that may need a service until `opened` is set.

    Pages, scripts and /health are plain GETs outside /api and /v1, and go through at once.
    """

    def __init__(self, app: ASGIApp, opened: asyncio.Event) -> None:
        self.app = app
        self.opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (
            scope["type"] == "http"
            and (scope["method"] not in ("GET", "HEAD") or scope["path"].startswith(("/api/", "/v1/")))
        ):
            await self.opened.wait()
        await self.app(scope, receive, send)
