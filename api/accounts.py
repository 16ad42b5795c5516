"""`/api/me`, `/api/tokens` and `/api/users`. They translate; the work is done by accounts.Accounts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fastapi import APIRouter
from pydantic import BaseModel, Field

from accounts.accounts import Accounts
from accounts.types import ApiToken, Role, User
from api.visitor import ADMINS_ONLY, Who
from rag.knowledge import KnowledgeService
from rag.owners import key_of


class NewToken(BaseModel):
    """`name` says what it is for."""

    name: str


class NewUser(BaseModel):
    """`role` is admin or user."""

    name: str
    password: str = Field(repr=False)
    role: str = "user"


class Change(BaseModel):
    """What is to change: one of them or both."""

    role: str | None = None
    password: str | None = Field(None, repr=False)


@dataclass(frozen=True)
class Made:
    """A new token. `token` is its secret, told this once."""

    id: str
    name: str
    created_at: str
    last_used_at: str
    token: str


@dataclass(frozen=True)
class Me:
    """`name` is "" for whoever needs no account: the operator with the token, or anybody where nothing is asked."""

    name: str
    role: Role
    accounts: bool  # whether there are any


def router(accounts: Accounts, knowledge: KnowledgeService) -> APIRouter:
    """The routes about people."""
    routes = APIRouter(prefix="/api", tags=["accounts"])

    @routes.get("/me", summary="Who am I")
    async def me(who: Who) -> Me:
        return Me(who.name, who.role, await accounts.any())

    @routes.get("/tokens", summary="My tokens")
    async def tokens(who: Who) -> list[ApiToken]:
        return await accounts.tokens(who)

    @routes.post("/tokens", status_code=201, summary="Make a token")
    async def make_token(who: Who, body: NewToken) -> Made:
        """It acts for its user in every call, in the header `Authorization`, until it is revoked."""
        token, secret = await accounts.add_token(who, body.name)
        return Made(**asdict(token), token=secret)

    @routes.delete("/tokens/{token_id}", status_code=204, summary="Revoke a token of mine")
    async def revoke(who: Who, token_id: str) -> None:
        await accounts.remove_token(who, token_id)

    @routes.get("/users", dependencies=ADMINS_ONLY, summary="All accounts")
    async def users() -> list[User]:
        return await accounts.users() if await accounts.any() else []

    @routes.post("/users", dependencies=ADMINS_ONLY, status_code=201, summary="Make an account")
    async def make_user(body: NewUser) -> User:
        """From the first account on, which has to be an admin's, everybody has to log in."""
        return await accounts.add_user(body.name, body.role, body.password)

    @routes.patch("/users/{name}", dependencies=ADMINS_ONLY, summary="Change a role or a password")
    async def change(name: str, body: Change) -> User:
        """A new password ends what the user was logged in to."""
        return await accounts.change_user(name, body.role, body.password)

    @routes.delete("/users/{name}", dependencies=ADMINS_ONLY, status_code=204, summary="Remove an account")
    async def remove(name: str, with_documents: bool = False) -> None:
        """With all its tokens and sessions; answers under way end within seconds. Its knowledge bases are deleted
        `with_documents`; else they are kept, for admins and for a later account of this name."""
        owner = await accounts.remove_user(name)
        for base in await knowledge.list() if with_documents else []:
            if base.owner == owner:
                await knowledge.delete(key_of(owner, base.name))

    return routes
