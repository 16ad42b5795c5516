"""Who may come in: host, origin, and who it is, checked for every http and websocket request before any route."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from accounts.accounts import Accounts
from accounts.types import OPERATOR, Visitor
from accounts.visiting import set_visitor
from api.attempts import Attempts
from api.errors import error_response, shape
from backends.errors import Busy, QuartetError, StorageUnreachable, Unauthorized

COOKIE = "quartet_session"

# Deny by default: these two paths and no others are open. The login form has to be.
OPEN_PATHS = frozenset({"/health", "/login"})
_PATIENCE = 5.0  # seconds for the database to say whether there are accounts
_LOOK = 1.0  # seconds between two looks at whether the visitor of a long request is still known
_POLICY = 1008  # https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
_NO_DATABASE = "The database of accounts does not answer: nobody is let in until it is back."


class Token:
    """The operator's secret; holds its hash only. Without one, and without accounts, everybody may come in."""

    def __init__(self, token: str) -> None:
        self.required = bool(token)
        self._digest = hashlib.sha256(token.encode()).digest()
        # Stands in sessions begun with this token: they end with it.
        self.proof = hashlib.sha256(b"session" + self._digest).hexdigest() if token else ""

    def matches(self, given: str) -> bool:
        """Compare in constant time."""
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        return hmac.compare_digest(digest, self._digest) and self.required


Again = Callable[[], Awaitable[Visitor | None]]


class Access:
    """ASGI middleware in front of everything, the mounted page included. Notes in the scope whose request it is.

    Without token and accounts only loopback names are accepted as Host, so that a page of another site whose name was
    made to point here (DNS rebinding) gets nothing. A request of another site (Origin) is refused in any case.
    """

    def __init__(self, app: ASGIApp, token: Token, accounts: Accounts, attempts: Attempts) -> None:
        self.app = app
        self.token = token
        self.accounts = accounts
        self.attempts = attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        admitted = await self._admit(scope)
        if admitted is None:
            await self.app(scope, receive, send)
        elif not isinstance(admitted, Response):
            await self._while_known(admitted, scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY, "reason": "refused"})
        else:
            await admitted(scope, receive, send)

    async def _admit(self, scope: Scope) -> Response | Again | None:
        """A refusal; or None; or, for somebody who may be shut out meanwhile, what asks again who it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        open_path = scope["path"] in OPEN_PATHS
        try:
            locked = self.token.required or await asyncio.wait_for(self.accounts.any(), _PATIENCE)
        except (QuartetError, TimeoutError) as error:
            if not open_path:
                return error_response(error if isinstance(error, QuartetError) else StorageUnreachable(_NO_DATABASE))
            locked = True
        if len(headers.getlist("host")) != 1 or not (locked or is_loopback(host)):
            return _forbidden(
                "host", "This service answers on loopback names only: start it with --token to use another name."
            )
        if not _same_origin(headers.getlist("origin"), host):
            return _forbidden("origin", "Requests from the pages of other sites are refused.")
        if open_path:
            return None
        if not locked:
            set_visitor(scope, OPERATOR)
            return None
        try:
            visitor, again = await self._recognise(headers, HTTPConnection(scope))
        except Unauthorized as error:
            if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return error_response(error)
        except QuartetError as error:
            return error_response(error)
        set_visitor(scope, visitor)
        return again

    async def _recognise(self, headers: Headers, connection: HTTPConnection) -> tuple[Visitor, Again | None]:
        """Who it is, by the cookie of a session or by the Authorization header, bare or as Bearer. Raises Unauthorized,
        Busy, and what the database raises."""
        session = connection.cookies.get(COOKIE, "")

        async def by_session() -> Visitor | None:
            return await self.accounts.visitor_of_session(session, self.token.proof)

        if (visitor := await by_session()) is not None:
            return visitor, by_session
        given = headers.get("authorization", "")
        scheme, _, rest = given.partition(" ")
        bare = rest.strip() if scheme.lower() == "bearer" else given
        if not given:
            raise Unauthorized("A token is needed: send it as header 'Authorization: Bearer TOKEN'.")
        address = connection.client.host if connection.client else ""
        wait = self.attempts.wait(address)
        if wait:
            raise Busy(f"Too many wrong tokens came from this address: try again in {wait} seconds.", wait)
        if self.token.matches(bare):
            return OPERATOR, None

        async def by_token() -> Visitor | None:
            return await self.accounts.visitor_of_token(bare)

        if await self.accounts.any() and (visitor := await by_token()) is not None:
            return visitor, by_token
        self.attempts.failed(address)
        raise Unauthorized("The token is not right: take one that was made for you, or shown at the start.")

    async def _while_known(self, again: Again, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request for as long as its visitor is known: who is removed or logs out is cut off."""
        work = asyncio.ensure_future(self.app(scope, receive, send))
        try:
            while not (await asyncio.wait({work}, timeout=_LOOK))[0]:
                with suppress(QuartetError):  # a database that is away for a moment ends nothing
                    if await again() is None:
                        work.cancel()
                        break
        finally:
            if not work.done():
                work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY, "reason": "logged out"})


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
