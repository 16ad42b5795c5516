"""A running server with accounts, for tests: ann is an admin, bob and eve are users; clients that act for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from accounts.passwords import hashed
from accounts.store import AccountStore
from tests.running_server import RunningServer, running_server

PASSWORD = "correct horse battery"


@dataclass
class House:
    """The server, and a token of each user by name."""

    server: RunningServer
    tokens: dict[str, str]

    def of(self, name: str) -> httpx.Client:
        """A client with the token of this user; close it after use."""
        client = self.server.client()
        client.headers["Authorization"] = f"Bearer {self.tokens[name]}"
        return client

    def call(self, name: str, method: str, path: str, **options: object) -> httpx.Response:
        with self.of(name) as client:
            return client.request(method, path, **options)  # type: ignore[arg-type]


@contextmanager
def running_house(folder: Path, *flags: str) -> Iterator[House]:
    """Make the accounts, then start the server."""
    with closing(AccountStore(folder / "data")) as store:
        password = hashed(PASSWORD)
        store.add("ann", "admin", password)
        store.add("bob", "user", password)
        store.add("eve", "user", password)
        tokens = {name: store.add_token(name, "test")[1] for name in ("ann", "bob", "eve")}
    with running_server(folder, *flags) as server:
        yield House(server, tokens)


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    """Send the form; the client keeps the cookie."""
    return client.post("/login", data={"name": name, "password": password})
