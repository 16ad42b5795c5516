"""`python app.py users ...`: accounts made, listed, changed, removed, also while the service runs. Reads no argv."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from accounts.types import ROLES, role_of, user_name
from backends.errors import InvalidRequest

Work = Callable[[Namespace, Path, str], str]


def users_command(parser: ArgumentParser) -> Work:
    """Adds the arguments to a parser; gives back the work on a data folder and a database URL ("" for none), which
    returns what to print."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="add | list | remove | password")
    for name, about in (("add", "make an account"), ("remove", "take one away"), ("password", "set a new password")):
        action = actions.add_parser(name, help=about, allow_abbrev=False)
        action.add_argument("name")
        if name == "add":
            action.add_argument("--role", required=True, choices=ROLES, help="an admin manages everything")
    actions.add_parser("list", help="all accounts", allow_abbrev=False)
    return work


def work(given: Namespace, data_dir: Path, database_url: str) -> str:
    """Do what was asked. Raises QuartetError."""
    from accounts.passwords import hashed
    from accounts.store import AccountStore

    name = user_name(given.name) if given.action != "list" else ""
    with closing(AccountStore(data_dir, database_url)) as store:
        if given.action == "add":
            user = store.add(name, role_of(given.role), hashed(_password(f"Password for {name}: ")))
            return f"Made the account of {user.name} ({user.role})."
        if given.action == "password":
            store.change(name)  # an unknown name is told before the password is typed
            store.change(name, password=hashed(_password(f"New password for {name}: ")))
            return f"{name} has a new password, and has to log in with it."
        if given.action == "remove":
            store.remove(name)
            return f"Removed the account of {name} with all its tokens; what it was logged in to has ended."
        rows = [f"{user.name:<24} {user.role:<6} {user.created_at[:10]}" for user in store.users()]
        return "\n".join(rows) or "There are no accounts yet: python app.py users add NAME --role admin"


def _password(prompt: str) -> str:
    """Typed twice without echo, or one line from a pipe; never an argument, which a process list would show."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(prompt)
    if getpass.getpass("The same again: ") != password:
        raise InvalidRequest("The two passwords are not the same: try again.")
    return password
