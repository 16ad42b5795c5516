"""Accounts, tokens and sessions in their tables. Blocks; one transaction a method; knows no web and no passwords."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import time
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from accounts.database import AccountsDatabase
from accounts.tables import sessions, tokens, users
from accounts.types import OPERATOR, ApiToken, Role, User, Visitor
from backends.errors import Conflict, NotFound

FILE = "accounts.db"
TOKENS = 50  # of one user
_SESSIONS = 10_000  # of everybody; the one that ends first goes


class AccountStore:
    """Opens the database. Raises QuartetError when it cannot be used. Methods that take a name of a user raise
    NotFound when there is none; names come as accounts.types.user_name gives them."""

    def __init__(self, data_dir: Path, database_url: str = "") -> None:
        self._db = AccountsDatabase(data_dir / FILE, database_url)

    def close(self) -> None:
        self._db.close()

    # ---- users

    def users(self) -> list[User]:
        with self._db.read() as db:
            rows = db.execute(select(users).order_by(users.c.name)).all()
        return [User(row.name, row.role, row.created_at) for row in rows]

    def any(self) -> bool:
        """Whether there is an account at all."""
        with self._db.read() as db:
            return db.scalar(select(users.c.name).limit(1)) is not None

    def add(self, name: str, role: Role, password: str) -> User:
        """`password` is a hash. Raises Conflict when the name is taken, or when nobody would be an admin."""
        user = User(name, role, _now())
        try:
            with self._db.write() as db:
                db.execute(insert(users).values(name=name, role=role, password=password, created_at=user.created_at))
                _needs_an_admin(db)
        except IntegrityError:
            raise Conflict(f"There is already a user named “{name}”; choose another name.") from None
        return user

    def remove(self, name: str) -> None:
        """With all tokens and sessions. Raises Conflict when it is the last admin of other users."""
        with self._db.write() as db:
            _found(db.execute(delete(users).where(users.c.name == name)).rowcount, name)
            _needs_an_admin(db)

    def change(self, name: str, role: Role | None = None, password: str | None = None) -> User:
        """A new password ends the sessions begun with the one before."""
        values = {"role": role, "password": password}
        with self._db.write() as db:
            given = {field: value for field, value in values.items() if value is not None} or {"name": name}
            _found(db.execute(update(users).where(users.c.name == name).values(**given)).rowcount, name)
            if password is not None:
                db.execute(delete(sessions).where(sessions.c.user_name == name))
            _needs_an_admin(db)
            row = db.execute(select(users).where(users.c.name == name)).one()
        return User(row.name, row.role, row.created_at)

    def password(self, name: str) -> tuple[str | None, Role]:
        """The hash of a user's password, None for an unknown name, and the role."""
        with self._db.read() as db:
            row = db.execute(select(users.c.password, users.c.role).where(users.c.name == name)).one_or_none()
        return (row.password, row.role) if row else (None, "user")

    # ---- tokens

    def add_token(self, user: str, name: str) -> tuple[ApiToken, str]:
        """A new token and its secret, which is told this once. Raises Conflict when there are too many."""
        secret, token = "qt-" + secrets.token_urlsafe(32), ApiToken(secrets.token_hex(16), name, _now(), "")
        with self._db.write() as db:
            if (db.scalar(select(func.count()).where(tokens.c.user_name == user)) or 0) >= TOKENS:
                raise Conflict(f"You have {TOKENS} tokens: revoke those that nothing uses any more.")
            _found(db.scalar(select(func.count()).where(users.c.name == user)) or 0, user)
            values = {"digest": _digest(secret), "user_name": user, **vars(token)}
            db.execute(insert(tokens).values(**values))
        return token, secret

    def tokens(self, user: str) -> list[ApiToken]:
        with self._db.read() as db:
            rows = db.execute(select(tokens).where(tokens.c.user_name == user).order_by(tokens.c.created_at)).all()
        return [ApiToken(row.id, row.name, row.created_at, row.last_used_at) for row in rows]

    def remove_token(self, user: str, token_id: str) -> None:
        """Raises NotFound for one of somebody else too."""
        mine = (tokens.c.id == token_id) & (tokens.c.user_name == user)
        with self._db.write() as db:
            if not db.execute(delete(tokens).where(mine)).rowcount:
                raise NotFound("There is no such token; it may have been revoked before.")

    def visitor_of_token(self, secret: str) -> Visitor | None:
        """Whose token this is, noting that it was used."""
        digest, now = _digest(secret), _now()
        query = select(tokens.c.digest, tokens.c.last_used_at, users.c.name, users.c.role).join(users)
        with self._db.read() as db:
            row = db.execute(query.where(tokens.c.digest == digest)).one_or_none()
        if row is None or not hmac.compare_digest(row.digest, digest):
            return None
        if row.last_used_at[:16] != now[:16]:  # once a minute is often enough
            with self._db.write() as db:
                db.execute(update(tokens).where(tokens.c.digest == digest).values(last_used_at=now))
        return Visitor(row.name, row.role)

    # ---- sessions

    def add_session(self, user: str, proof: str, lifetime: float) -> str:
        """The secret of a new session, for `lifetime` seconds. `user` "" is the operator's, `proof` then tells the
        token it was begun with. Raises NotFound when the user was removed meanwhile."""
        secret, now = secrets.token_urlsafe(32), time.time()
        with self._db.write() as db:
            if user:
                _found(db.scalar(select(func.count()).where(users.c.name == user)) or 0, user)
            db.execute(delete(sessions).where(sessions.c.expires <= now))
            extra = (db.scalar(select(func.count()).select_from(sessions)) or 0) - _SESSIONS + 1
            if extra > 0:
                first = select(sessions.c.digest).order_by(sessions.c.expires).limit(extra)
                db.execute(delete(sessions).where(sessions.c.digest.in_(first)))
            values = {"digest": _digest(secret), "user_name": user or None, "proof": proof}
            db.execute(insert(sessions).values(**values, expires=now + lifetime))
        return secret

    def visitor_of_session(self, secret: str, proof: str) -> Visitor | None:
        """Whose session this is, if it has not ended; the operator's only with the same `proof`."""
        digest = _digest(secret)
        query = select(sessions, users.c.name, users.c.role).outerjoin(users, sessions.c.user_name == users.c.name)
        with self._db.read() as db:
            row = db.execute(query.where(sessions.c.digest == digest)).one_or_none()
        if row is None or row.expires <= time.time() or not hmac.compare_digest(row.digest, digest):
            return None
        if row.user_name is not None:
            return Visitor(row.name, row.role)
        return OPERATOR if proof and hmac.compare_digest(row.proof, proof) else None

    def end_session(self, secret: str) -> None:
        with self._db.write() as db:
            db.execute(delete(sessions).where(sessions.c.digest == _digest(secret)))


def _found(rows: int, name: str) -> None:
    if not rows:
        raise NotFound(f"There is no user named “{name}”; `python app.py users list` shows all.")


def _needs_an_admin(db: Connection) -> None:
    """Raises Conflict where there are accounts and none of them is an admin's: nobody could manage the service."""
    # All of them, locked: two that remove each other at the same moment must not both succeed.
    roles = db.scalars(select(users.c.role).with_for_update()).all()
    if roles and "admin" not in roles:
        raise Conflict("There would be users but no admin: make the first account, or another one, an admin's.")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
