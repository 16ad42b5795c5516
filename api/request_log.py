"""A number for each request: in its response header, in all that is logged on its behalf, and in a line of its own.

What a request came to is told to whoever counts requests; knows no figure.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
logger = logging.getLogger("quartet.access")
# What a proxy in front may have given already; anything else could forge lines of the log.
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """The number of the request that is being served, "" outside of one."""
    return _request_id.get()


class RequestLog:
    """ASGI middleware. Logs method, path, status and seconds of a request when it is over; never query or headers.

    `over(scope, status, seconds)` is called then; the status is 0 where no answer had begun.
    """

    def __init__(self, app: ASGIApp, over: Callable[[Scope, int, float], None]) -> None:
        self.app = app
        self.over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        number = given if _GIVEN.fullmatch(given) else secrets.token_hex(8)
        token = _request_id.set(number)
        status, began = 0, time.monotonic()

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                MutableHeaders(scope=message)[HEADER] = number
            await send(message)

        try:
            await self.app(scope, receive, numbered)
        finally:
            seconds = time.monotonic() - began
            self.over(scope, status, seconds)
            client = scope.get("client")
            details = {
                "method": scope.get("method", "WEBSOCKET"),
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "client": client[0] if client else "",
            }
            logger.info("%(method)s %(path)s %(status)s", details, extra={"request": details})
            _request_id.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, and the details of a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if number := request_id():
            line["request_id"] = number
        line |= getattr(record, "request", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
