"""Whose request it is, as FastAPI's dependencies. The door (api/auth.py) has found it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from accounts.types import Visitor, user_name
from accounts.visiting import require_admin, visitor_of
from rag.owners import KnowledgeOf

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService


# Each is a coroutine function: FastAPI gives others a thread for every request.


async def visitor(connection: HTTPConnection) -> Visitor:
    return visitor_of(connection.scope)


Who = Annotated[Visitor, Depends(visitor)]


async def _admin(who: Who) -> None:
    require_admin(who)


ADMINS_ONLY = [Depends(_admin)]


def seen_by(who: Visitor, knowledge: KnowledgeService) -> KnowledgeOf:
    """The knowledge bases as this visitor sees them."""
    return KnowledgeOf(knowledge, who.name, who.admin)


async def _owner(
    owner: Annotated[str | None, Query(description="Whose it is, for admins; empty for one that all share")] = None,
) -> str | None:
    return user_name(owner) if owner else owner


Owner = Annotated[str | None, Depends(_owner)]
