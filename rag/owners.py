"""Whose a knowledge base is. To the store a base has one text for a name, its key; here it is a name and an owner.

The key of a base that all share is its name; of one that is somebody's it is the owner, a character that no name may
hold, and the name. Owners are plain texts here, "" for all; who they are is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.errors import Forbidden, NotFound
from rag.names import base_name
from rag.types import KnowledgeBase

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService

_MARK = "\x1f"
Bases = list[KnowledgeBase]


def key_of(owner: str, name: str) -> str:
    """The key of the base that `owner` calls `name`. Raises InvalidRequest for what cannot be a name."""
    return f"{owner}{_MARK}{base_name(name)}" if owner else base_name(name)


def base_key(key: str) -> str:
    """A key as the store has it: its name composed and trimmed. Raises InvalidRequest for what cannot be one."""
    owner, _, name = key.rpartition(_MARK)
    return key_of(owner, name)


def owner_of(key: str) -> str:
    return key.rpartition(_MARK)[0]


def name_of(key: str) -> str:
    """What people call the base of this key."""
    return key.rpartition(_MARK)[2]


class KnowledgeOf:
    """The knowledge bases as one asker sees them: their own, and those that all share. `admin` sees everybody's.

    What people type is a name; the keys that this gives are what KnowledgeService and ChatService take. Nothing that
    came from outside may be given to them as a key.
    """

    def __init__(self, knowledge: KnowledgeService, asker: str, admin: bool) -> None:
        self._knowledge = knowledge
        self._asker = asker
        self._admin = admin

    async def list(self) -> Bases:
        """Those of the asker, those that all share, and for an admin everybody's."""
        return [base for base in await self._knowledge.list() if self._sees(base.owner)]

    async def key(self, name: str, owner: str | None = None, change: bool = False) -> str:
        """The key of the base called `name`: of `owner`, or where none is named the asker's own before the shared one.
        Raises NotFound for one that is not there or is somebody else's, and Forbidden when it is to be changed and
        only admins may."""
        owners = dict.fromkeys((self._asker, "")) if owner is None else [owner]
        wanted = [key_of(one, name) for one in owners]
        for key in wanted:
            if self._sees(owner_of(key)) and await self._knowledge.has(key):
                if change and not self._may_change(owner_of(key)):
                    raise Forbidden(
                        f"“{name_of(key)}” is shared by all, and only admins change it: make one of your own."
                    )
                return key
        called = name_of(wanted[-1])
        raise NotFound(f"There is no knowledge base named “{called}”; create it first, or choose one from the list.")

    async def checked(self, key: str, change: bool = False) -> str:
        """A key that was given out and came back, if the asker may still see (or change) what it names."""
        return await self.key(name_of(key), owner_of(key), change)

    async def create(self, name: str, owner: str | None = None) -> KnowledgeBase:
        """A new base: of `owner`; where none is named the asker's, an admin's for all. Raises Conflict, Forbidden."""
        whose = ("" if self._admin else self._asker) if owner is None else owner
        if not self._may_change(whose):
            raise Forbidden("Only admins make knowledge bases for others: leave out the owner.")
        return await self._knowledge.create(key_of(whose, name))

    def _sees(self, owner: str) -> bool:
        return self._admin or owner in ("", self._asker)

    def _may_change(self, owner: str) -> bool:
        return self._admin or (bool(owner) and owner == self._asker)
