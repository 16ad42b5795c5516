"""Passwords: which are taken, and argon2id's hashes of them. Blocks, on purpose: each takes tens of milliseconds."""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from backends.errors import InvalidRequest

SHORTEST, LONGEST = 8, 1024  # characters


def hashed(password: str) -> str:
    """Raises InvalidRequest for a password that is too short to be one."""
    if not password:
        raise InvalidRequest("The password is empty: choose one.", "password")
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidRequest(
            f"A password has {SHORTEST} to {LONGEST} characters: choose one, three or four words for example.",
            "password",
        )
    return PasswordHasher().hash(password.encode("utf-8", "surrogatepass"))


def matches(password: str, known: str | None) -> bool:
    """Whether this is the password of the hash. Without one (an unknown name) it takes as long and is never true."""
    hasher = PasswordHasher()
    given = password[:LONGEST].encode("utf-8", "surrogatepass")
    if known is None:
        hasher.hash(given)
        return False
    try:
        return hasher.verify(known, given)
    except (Argon2Error, InvalidHashError):
        return False
