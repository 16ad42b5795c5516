"""Who may come in: host, origin and token, checked for every http and websocket request before any route sees it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response, shape
from api.sessions import COOKIE, Attempts, Sessions
from backends.errors import Busy, QuartetError, Unauthorized

# Deny by default: these two paths and no others are open. The login form has to be.
OPEN_PATHS = frozenset({"/health", "/login"})


class Token:
    """The one secret of this service; holds its hash only. An empty token means that everybody may come in."""

    def __init__(self, token: str) -> None:
        self.required = bool(token)
        self._digest = hashlib.sha256(token.encode()).digest()

    def matches(self, given: str) -> bool:
        """Compare in constant time."""
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        return hmac.compare_digest(digest, self._digest) and self.required


class Access:
    """ASGI middleware in front of everything, the mounted page included.

    Without a token only loopback names are accepted as Host, so that a page of another site whose name was made to
    point here (DNS rebinding) gets nothing. A request of another site (Origin) is refused in any case.
    """

    def __init__(self, app: ASGIApp, token: Token, sessions: Sessions, attempts: Attempts) -> None:
        self.app = app
        self.token = token
        self.sessions = sessions
        self.attempts = attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not (self.token.required or is_loopback(host)):
            return _forbidden(
                "host", "This service answers on loopback names only: start it with --token to use another name."
            )
        if not _same_origin(headers.getlist("origin"), host):
            return _forbidden("origin", "Requests from the pages of other sites are refused.")
        if not self.token.required or scope["path"] in OPEN_PATHS:
            return None
        connection = HTTPConnection(scope)
        if self.sessions.valid(connection.cookies.get(COOKIE, "")):
            return None
        try:
            self._check(headers, connection)
        except QuartetError as error:
            if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return error_response(error)
        return None

    def _check(self, headers: Headers, connection: HTTPConnection) -> None:
        """Raise Unauthorized or Busy unless the Authorization header carries the token, bare or as Bearer."""
        given = headers.get("authorization", "")
        scheme, _, rest = given.partition(" ")
        bare = rest.strip() if scheme.lower() == "bearer" else given
        if not given:
            raise Unauthorized("A token is needed: send it as header 'Authorization: Bearer TOKEN'.")
        address = connection.client.host if connection.client else ""
        wait = self.attempts.wait(address)
        if wait:
            raise Busy(f"Too many wrong tokens came from this address: try again in {wait} seconds.", wait)
        if not self.token.matches(bare):
            self.attempts.failed(address)
            raise Unauthorized("The token is not right: take the one that was set or shown at the start.")


def is_loopback(host: str) -> bool:
    """Whether a Host header (with or without port) names this machine to itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same_origin(origins: list[str], host: str) -> bool:
    if not origins:
        return True
    try:
        ours, theirs = urlsplit(f"//{host}"), urlsplit(origins[0])
        default = {"http": 80, "https": 443}.get(theirs.scheme)
        same_port = (theirs.port or default) == (ours.port or default)
    except ValueError:
        return False
    return len(origins) == 1 and bool(theirs.hostname) and theirs.hostname == ours.hostname and same_port


def _forbidden(code: str, message: str) -> Response:
    return JSONResponse(shape(f"forbidden_{code}", message), 403)
