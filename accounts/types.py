"""Who visits and with what rights: the values page and API see. Frozen; imports nothing heavy, knows no database."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, cast, get_args

from backends.errors import InvalidRequest

Role = Literal["admin", "user"]
ROLES: tuple[str, ...] = get_args(Role)
_NAME = re.compile(r"\w[\w.@+-]{0,63}")
_LABEL = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}")


@dataclass(frozen=True)
class Visitor:
    """Who asks. `name` is "" where there is no account behind it: the operator with the token, or anybody where
    nothing is asked. These, and admins, may do everything."""

    name: str
    role: Role

    @property
    def admin(self) -> bool:
        return self.role == "admin"


OPERATOR = Visitor("", "admin")


@dataclass(frozen=True)
class User:
    """An account. `created_at` is UTC, ISO 8601."""

    name: str
    role: Role
    created_at: str


@dataclass(frozen=True)
class ApiToken:
    """A token of a user, without its secret. `last_used_at` is "" before the first use, and true to the minute."""

    id: str
    name: str
    created_at: str
    last_used_at: str


def user_name(text: str) -> str:
    """The name of an account, the same however it is capitalised. Raises InvalidRequest when it cannot be one."""
    name = unicodedata.normalize("NFKC", text).casefold().strip()
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "A user's name has 1 to 64 letters, digits or . _ @ + -, and begins with a letter or digit.", "name"
        )
    return name


def token_name(text: str) -> str:
    """What a token is called by its user. Raises InvalidRequest when that cannot be shown."""
    name = unicodedata.normalize("NFC", text).strip()
    if not _LABEL.fullmatch(name):
        raise InvalidRequest("A token's name has 1 to 100 characters: say what it is for, 'backup script'.", "name")
    return name


def role_of(text: str) -> Role:
    """Raises InvalidRequest for a role that is none."""
    if text not in ROLES:
        raise InvalidRequest(f"There is no role '{text}': it is admin or user.", "role")
    return cast(Role, text)
