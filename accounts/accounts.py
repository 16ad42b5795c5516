"""Accounts as page and API ask for them: async, with a short memory, and with few passwords checked at once.

What another process changed (a command, another Quartet on the same database) holds here after a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accounts.types import ApiToken, Role, User, Visitor, role_of, token_name, user_name
from backends.errors import Busy, InvalidRequest

if TYPE_CHECKING:
    from accounts.store import AccountStore

T = TypeVar("T")
Users = list[User]
Tokens = list[ApiToken]

SESSION_SECONDS = 7 * 86_400
_FRESH = 1.0  # seconds that an answer of the database is taken for true
_REMEMBERED = 10_000  # answers
_CHECKS, _WAITING = 2, 64  # passwords checked at once, each with 64 MiB of memory, and in line for it


class Accounts:
    """The accounts of a data folder, or of the database at `database_url`, which several Quartets may share.

    The database is opened when it is first needed: without accounts there is none, and nothing is imported for it.
    """

    def __init__(self, data_dir: Path, database_url: str = "") -> None:
        self._data_dir = data_dir
        self._database_url = database_url
        self._opening = threading.Lock()
        self._opened: AccountStore | None = None
        self._known: OrderedDict[tuple[str, ...], tuple[float, asyncio.Task[Any]]] = OrderedDict()
        self._checks = asyncio.Semaphore(_CHECKS)
        self._checking = 0

    def close(self) -> None:
        store, self._opened = self._opened, None
        if store is not None:
            store.close()

    # ---- who is there

    async def any(self) -> bool:
        """Whether there are accounts: then everybody has to log in."""
        return await self._remembered(("any",), self._any)

    async def visitor_of_token(self, secret: str) -> Visitor | None:
        return await self._remembered(("token", secret), lambda: self._store.visitor_of_token(secret))

    async def visitor_of_session(self, secret: str, proof: str) -> Visitor | None:
        """Whose session this is; the operator's counts only with the `proof` of the token it was begun with."""
        if not secret:
            return None
        load: Callable[[], Visitor | None] = lambda: self._store.visitor_of_session(secret, proof)  # noqa: E731
        return await self._remembered(("session", secret, proof), load)

    async def check(self, name: str, password: str) -> Visitor | None:
        """The user with this password, None when name or password is wrong; both take as long. Raises Busy."""
        if self._checking >= _WAITING:
            raise Busy("Many people are logging in at this moment: try again in a few seconds.", 5)
        self._checking += 1
        try:
            async with self._checks:
                return await asyncio.to_thread(self._check, name, password)
        finally:
            self._checking -= 1

    async def begin_session(self, visitor: Visitor, proof: str = "") -> str:
        """The secret of a new session; the operator's needs a `proof`, which ends it when it is another one."""
        return await asyncio.to_thread(lambda: self._store.add_session(visitor.name, proof, SESSION_SECONDS))

    async def end_session(self, secret: str) -> None:
        await self._changed(lambda: self._store.end_session(secret))

    # ---- users

    async def users(self) -> Users:
        return await asyncio.to_thread(lambda: self._store.users())

    async def add_user(self, name: str, role: str, password: str) -> User:
        """Raises InvalidRequest, and Conflict when the name is taken."""
        known, right = user_name(name), role_of(role)
        return await self._changed(await self._with_hash(password, lambda h: self._store.add(known, right, h)))

    async def change_user(self, name: str, role: str | None, password: str | None) -> User:
        """Raises InvalidRequest, NotFound, and Conflict when no admin would be left."""
        if role is None and password is None:
            raise InvalidRequest("Say what is to change: 'role' or 'password'.")
        known = user_name(name)
        right: Role | None = None if role is None else role_of(role)
        if password is None:
            return await self._changed(lambda: self._store.change(known, right))
        return await self._changed(await self._with_hash(password, lambda h: self._store.change(known, right, h)))

    async def remove_user(self, name: str) -> str:
        """The name as it was kept. Raises NotFound, and Conflict when no admin would be left."""
        known = user_name(name)
        await self._changed(lambda: self._store.remove(known))
        return known

    # ---- tokens

    async def tokens(self, visitor: Visitor) -> Tokens:
        return await asyncio.to_thread(lambda: self._store.tokens(visitor.name)) if visitor.name else []

    async def add_token(self, visitor: Visitor, name: str) -> tuple[ApiToken, str]:
        """The token and its secret. Raises InvalidRequest for a visitor without an account."""
        if not visitor.name:
            raise InvalidRequest("Tokens belong to an account: log in with one; `python app.py users add` makes it.")
        label = token_name(name)
        return await asyncio.to_thread(lambda: self._store.add_token(visitor.name, label))

    async def remove_token(self, visitor: Visitor, token_id: str) -> None:
        """Raises NotFound, also for a token of somebody else."""
        await self._changed(lambda: self._store.remove_token(visitor.name, token_id))

    # ---- inside

    @property
    def _store(self) -> AccountStore:
        """Blocks; only for threads."""
        with self._opening:
            if self._opened is None:
                from accounts.store import AccountStore

                self._opened = AccountStore(self._data_dir, self._database_url)
            return self._opened

    def _any(self) -> bool:
        from_file = not self._database_url
        if from_file and self._opened is None and not (self._data_dir / "accounts.db").exists():
            return False
        return self._store.any()

    def _check(self, name: str, password: str) -> Visitor | None:
        from accounts.passwords import matches

        try:
            known = user_name(name)
            digest, role = self._store.password(known)
        except InvalidRequest:
            known, digest, role = "", None, "user"
        return Visitor(known, role) if matches(password, digest) else None

    async def _with_hash(self, password: str, use: Callable[[str], T]) -> Callable[[], T]:
        """`use` with the hash of a new password."""
        from accounts.passwords import hashed

        async with self._checks:
            digest = await asyncio.to_thread(hashed, password)
        return lambda: use(digest)

    async def _changed(self, work: Callable[[], T]) -> T:
        """Do it, and forget what was known before."""
        done = await asyncio.to_thread(work)
        self._known.clear()
        return done

    def _remembered(self, key: tuple[str, ...], load: Callable[[], T]) -> Awaitable[T]:
        """What `load` gives, from memory when that is fresh; many who ask at once ask the database once."""
        now = time.monotonic()
        found = self._known.get(key)
        if found is None or (found[0] <= now and found[1].done()) or _failed(found[1]):
            task = asyncio.ensure_future(asyncio.to_thread(load))
            task.add_done_callback(_failed)
            found = self._known[key] = now + _FRESH, task
            self._known.move_to_end(key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return asyncio.shield(found[1])


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
