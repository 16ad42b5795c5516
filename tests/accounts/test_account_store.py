"""Accounts, tokens and sessions in both databases: what is kept, what ends, what cannot be read out of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from accounts.accounts import Accounts
from accounts.passwords import hashed, matches
from accounts.store import AccountStore
from accounts.types import OPERATOR, Visitor, role_of, token_name, user_name
from backends.errors import Conflict, InvalidRequest, NotFound, QuartetError, StorageUnreachable

if TYPE_CHECKING:
    from tests.postgres import Postgres

PASSWORD = "correct horse battery"


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A data folder, and the URL of a database where that is not in it."""
    if request.param == "file":
        return tmp_path, ""
    postgres: Postgres = request.getfixturevalue("postgres")
    return tmp_path, postgres.database()


@pytest.fixture
def store(place: tuple[Path, str]) -> Iterator[AccountStore]:
    with closing(AccountStore(*place)) as opened:
        yield opened


def test_accounts_are_made_changed_and_removed(store: AccountStore) -> None:
    assert not store.any()
    store.add("ann", "admin", "hash of ann")
    store.add("bob", "user", "hash of bob")
    assert store.any()
    assert [(user.name, user.role) for user in store.users()] == [("ann", "admin"), ("bob", "user")]
    with pytest.raises(Conflict, match="already a user"):
        store.add("bob", "admin", "another")
    assert store.password("bob") == ("hash of bob", "user")
    assert store.password("nobody")[0] is None
    assert store.change("bob", role="admin").role == "admin"
    store.remove("ann")
    for call in (lambda: store.remove("ann"), lambda: store.change("ann", role="user")):
        with pytest.raises(NotFound, match="ann"):
            call()


def test_where_there_are_users_there_is_an_admin(store: AccountStore) -> None:
    with pytest.raises(Conflict, match="no admin"):
        store.add("bob", "user", "hash")
    assert not store.any()
    store.add("ann", "admin", "hash")
    store.add("bob", "user", "hash")
    refused: list[Callable[[], object]] = [lambda: store.remove("ann"), lambda: store.change("ann", role="user")]
    for call in refused:
        with pytest.raises(Conflict, match="no admin"):
            call()
    assert [user.role for user in store.users()] == ["admin", "user"]
    store.remove("bob")
    store.remove("ann")  # the last account may go: then it is as it was before the first
    assert not store.any()


def test_a_token_is_its_users_until_it_is_revoked(store: AccountStore) -> None:
    store.add("ann", "admin", "hash")
    store.add("bob", "user", "hash")
    token, secret = store.add_token("bob", "backup")
    assert store.visitor_of_token(secret) == Visitor("bob", "user")
    (listed,) = store.tokens("bob")
    assert (listed.id, listed.name, bool(listed.last_used_at)) == (token.id, "backup", True)
    assert secret not in repr(listed)
    assert store.tokens("ann") == []
    for wrong in ("", secret[:-1], secret + "x", token.id, "\udcff"):
        assert store.visitor_of_token(wrong) is None
    with pytest.raises(NotFound):
        store.remove_token("ann", token.id)
    assert store.visitor_of_token(secret) is not None
    store.remove_token("bob", token.id)
    assert store.visitor_of_token(secret) is None


def test_with_a_user_go_tokens_and_sessions(store: AccountStore) -> None:
    store.add("ann", "admin", "hash")
    store.add("bob", "user", "hash")
    _, secret = store.add_token("bob", "backup")
    session = store.add_session("bob", "", 60)
    assert store.visitor_of_session(session, "") == Visitor("bob", "user")
    store.remove("bob")
    assert store.visitor_of_token(secret) is None
    assert store.visitor_of_session(session, "") is None
    for late in (lambda: store.add_token("bob", "x"), lambda: store.add_session("bob", "", 60)):
        with pytest.raises(NotFound):
            late()
    store.add("bob", "user", "hash")  # somebody else of this name
    assert store.visitor_of_session(session, "") is None


def test_a_new_password_ends_sessions_and_a_new_role_holds_at_once(store: AccountStore) -> None:
    store.add("ann", "admin", "hash")
    store.add("bob", "user", "hash")
    session, other = store.add_session("bob", "", 60), store.add_session("ann", "", 60)
    store.change("bob", role="admin")
    assert store.visitor_of_session(session, "") == Visitor("bob", "admin")
    store.change("bob", password="new hash")
    assert store.visitor_of_session(session, "") is None
    assert store.visitor_of_session(other, "") == Visitor("ann", "admin")


def test_a_session_ends_by_time_by_hand_and_with_the_operators_token(store: AccountStore) -> None:
    store.add("ann", "admin", "hash")
    assert store.visitor_of_session(store.add_session("ann", "", -1), "") is None
    operators = store.add_session("", "this token", 60)
    assert store.visitor_of_session(operators, "this token") == OPERATOR
    assert store.visitor_of_session(operators, "another token") is None
    assert store.visitor_of_session(operators, "") is None
    store.end_session(operators)
    assert store.visitor_of_session(operators, "this token") is None


def test_others_see_what_one_has_written(place: tuple[Path, str]) -> None:
    with closing(AccountStore(*place)) as one, closing(AccountStore(*place)) as other:
        one.add("ann", "admin", "hash")
        session = one.add_session("ann", "", 60)
        assert other.visitor_of_session(session, "") == Visitor("ann", "admin")
        other.remove("ann")
        assert one.visitor_of_session(session, "") is None


def test_no_secret_can_be_read_out_of_the_file(tmp_path: Path) -> None:
    with closing(AccountStore(tmp_path)) as store:
        store.add("ann", "admin", hashed(PASSWORD))
        secrets = [PASSWORD, store.add_token("ann", "x")[1], store.add_session("ann", "", 60)]
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"ann" in written
    for secret in secrets:
        assert secret.encode() not in written


def test_a_damaged_file_and_a_lost_database_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(QuartetError, match="damaged"):
        AccountStore(tmp_path)
    with pytest.raises(StorageUnreachable, match="does not answer"):
        AccountStore(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:1/nothing")


def test_passwords() -> None:
    known = hashed(PASSWORD)
    assert known.startswith("$argon2id$")
    assert PASSWORD not in known
    assert matches(PASSWORD, known)
    assert hashed(PASSWORD) != known  # salted
    for wrong in ("", PASSWORD + " ", "\udcff"):
        assert not matches(wrong, known)
    for bad in ("", "short", "x" * 1025):
        with pytest.raises(InvalidRequest):
            hashed(bad)
    assert not matches(PASSWORD, "no hash")


def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    known, times = hashed(PASSWORD), {}
    for kind, digest in (("wrong", known), ("unknown", None)):
        runs = []
        for _ in range(5):
            began = time.perf_counter()
            assert not matches("not this one", digest)
            runs.append(time.perf_counter() - began)
        times[kind] = min(runs)
    assert 0.3 < times["wrong"] / times["unknown"] < 3


def test_names() -> None:
    assert user_name("  Ann ") == "ann"
    assert user_name("ＢＯＢ") == "bob"
    assert user_name("小明") == "小明"
    for bad in ("", " ", "a" * 65, "a b", "a/b", "-x", "a\x1fb", "a\nb", "<b>"):
        with pytest.raises(InvalidRequest):
            user_name(bad)
    for bad in ("", "x" * 101, "a\nb"):
        with pytest.raises(InvalidRequest):
            token_name(bad)
    with pytest.raises(InvalidRequest, match="admin or user"):
        role_of("boss")


async def test_without_accounts_no_database_is_made(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path)) as accounts:
        assert not await accounts.any()
    assert not (tmp_path / "accounts.db").exists()


async def test_what_a_command_changed_holds_after_a_moment(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path)) as accounts, closing(AccountStore(tmp_path)) as command:
        assert not await accounts.any()
        command.add("ann", "admin", hashed(PASSWORD))
        command.add("bob", "user", hashed(PASSWORD))
        visitor = await accounts.check("Bob", PASSWORD)
        assert visitor == Visitor("bob", "user")
        session = await accounts.begin_session(visitor)
        assert await accounts.visitor_of_session(session, "") == visitor
        command.remove("bob")
        async with asyncio.timeout(30):
            for _ in range(1000):
                if await accounts.visitor_of_session(session, "") is None and await accounts.any():
                    break
                await asyncio.sleep(0.05)


async def test_logging_in(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path)) as accounts:
        await accounts.add_user("Ann", "admin", PASSWORD)
        for name, password in (("ann", "wrong password"), ("nobody", PASSWORD), ("a/b", PASSWORD), ("", "")):
            assert await accounts.check(name, password) is None
        checks = await asyncio.gather(*(accounts.check("ann", PASSWORD) for _ in range(6)))
        assert checks == [Visitor("ann", "admin")] * 6
        session = await accounts.begin_session(checks[0] or OPERATOR)
        _, secret = await accounts.add_token(Visitor("ann", "admin"), "x")
        assert await accounts.visitor_of_token(secret) == checks[0]
        await accounts.change_user("ann", None, "another password")
        assert await accounts.visitor_of_session(session, "") is None  # at once, in the process that did it
        await accounts.remove_user("ann")
        assert await accounts.visitor_of_token(secret) is None
        with pytest.raises(InvalidRequest, match="account"):
            await accounts.add_token(OPERATOR, "x")
        with pytest.raises(InvalidRequest, match="what is to change"):
            await accounts.change_user("ann", None, None)
