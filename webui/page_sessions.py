"""Whose page a Gradio session is: nobody else reads its events, sends any, or ends them. Knows no component.

To Gradio a session is a text that the browser makes up, and whoever knows it gets what is meant for that page.
"""

from __future__ import annotations

import json
from collections import OrderedDict

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

MAX_SESSIONS = 10_000


class PageSessions:
    """Who was first seen with each session; those not used for longest are forgotten."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = limit
        self._owners: OrderedDict[str, str] = OrderedDict()

    def belongs(self, session: str, visitor: str) -> bool:
        """Whether it is this visitor's; a session that nobody has had is from now on."""
        owner = self._owners.setdefault(session, visitor)
        self._owners.move_to_end(session)
        while len(self._owners) > self._limit:
            self._owners.popitem(last=False)
        return owner == visitor


async def session_of(scope: Scope, receive: Receive) -> tuple[str, Receive]:
    """The session that a call of Gradio's names, "" for none, and what gives Gradio the body. Uploads name none."""
    request = Request(scope, receive)
    call = scope["path"].strip("/").split("/")[1:]
    if call[:1] == ["heartbeat"]:
        return "".join(call[1:2]), receive
    if scope["method"] != "POST" or call[:1] == ["upload"]:
        return request.query_params.get("session_hash", ""), receive
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError):
        return "", _body(b"", receive)  # which Gradio refuses
    session = fields.get("session_hash") if isinstance(fields, dict) else None
    # Written anew: of a name that stands twice Gradio might take the other one.
    return session if isinstance(session, str) else "", _body(json.dumps(fields).encode(), receive)


def _body(body: bytes, receive: Receive) -> Receive:
    """Gives this body, and after it whatever happens to the connection."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return left.pop() if left else await receive()

    return give
