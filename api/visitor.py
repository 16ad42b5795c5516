"""Whose request it is, as FastAPI's dependencies. The door (api/auth.py) has found it out."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from accounts.types import Visitor
from accounts.visiting import require_admin, visitor_of


def visitor(connection: HTTPConnection) -> Visitor:
    return visitor_of(connection.scope)


Who = Annotated[Visitor, Depends(visitor)]


def _admin(who: Who) -> None:
    require_admin(who)


ADMINS_ONLY = [Depends(_admin)]
