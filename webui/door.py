"""The ASGI door in front of the page: the language of a visitor, Gradio's doors that nobody here uses, shut, and those
of a page open only to whose page it is."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from accounts.visiting import visitor_of
from webui.page_sessions import PageSessions, session_of
from webui.texts import preferred

API = "/gradio_api/"
# What the page itself calls. Everything else that Gradio offers stays shut: calls beside the queue's own, files by
# path, fetching for others, run history, recordings, code editing, call documentation, monitoring.
OPEN = frozenset(
    {"queue", "run", "cancel", "reset", "heartbeat", "upload", "upload_progress", "startup-events", "theme.css"}
)
SHUT_PAGES = frozenset({"monitoring", "login", "logout", "svelte", "pwa_icon", "docs", "redoc", "openapi.json"})


class PageDoor:
    """Sends a browser that prefers Chinese from `/` to `/zh` (not with `?lang=en`); answers 404 at unused doors, and
    for the session of another visitor's page, as if it were not there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sessions = PageSessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if shut(scope["path"]):
                await PlainTextResponse("Not found", 404)(scope, receive, send)
                return
            if scope["path"] == "/" and scope["method"] in ("GET", "HEAD") and _wants_chinese(scope):
                headers = {"Vary": "Accept-Language", "Cache-Control": "no-store"}
                await RedirectResponse("./zh", 302, headers)(scope, receive, send)
                return
            if scope["path"].startswith(API):
                try:
                    session, receive = await session_of(scope, receive)
                except ClientDisconnect:
                    return
                if session and not self._sessions.belongs(session, visitor_of(scope).name):
                    await PlainTextResponse("Not found", 404)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def shut(path: str) -> bool:
    """Whether this path is a door of Gradio's that the page does not use."""
    if path.startswith(API):
        return path[len(API) :].split("/")[0] not in OPEN
    return path.strip("/").split("/")[0] in SHUT_PAGES


def _wants_chinese(scope: Scope) -> bool:
    if "lang" in parse_qs(scope["query_string"].decode("latin-1")):
        return False
    header = next((value for name, value in scope["headers"] if name == b"accept-language"), b"")
    return preferred(header.decode("latin-1")) == "zh"
