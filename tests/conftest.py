"""Fixtures that any test may ask for: a running Quartet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.running_server import RunningServer, StartServer, running_server

if TYPE_CHECKING:
    from tests.api.people import House
    from tests.postgres import Postgres


@pytest.fixture
def start_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """A function that starts a server with the given flags (and env=, headers=); all of them end with the test."""
    with ExitStack() as stack:

        def start(*flags: str, **options: Mapping[str, str]) -> RunningServer:
            server = stack.enter_context(running_server(tmp_path, *flags, **options))
            request.node.servers = [*getattr(request.node, "servers", []), server]
            return server

        yield start


@pytest.fixture(scope="session")
def _session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(_session_server: RunningServer, request: pytest.FixtureRequest) -> RunningServer:
    """A server without a model, shared by all tests of this process: leave no knowledge base of a common name in it."""
    request.node.servers = [_session_server]
    return _session_server


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    from tests.api.people import running_house

    with running_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def house(_house: House, request: pytest.FixtureRequest) -> House:
    """A server on loopback, without a token, with the accounts of ann (admin), bob and eve (users), shared by the tests
    of one file: what one does to an account, the next one finds."""
    request.node.servers = [_house.server]
    return _house


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server with pgvector, shared by all tests of this process: ask it for a database of your own."""
    from tests.postgres import running_postgres

    with running_postgres() as server:
        yield server


@pytest.fixture
def visit() -> Iterator[Callable[..., Any]]:
    """A function that opens the page at a URL in a browser. At the end no window may have asked another host for
    anything, nor have had an error in a script."""
    from tests.browser import Window, chromium, open_window

    windows: list[Window] = []
    with chromium() as browser:

        def open_one(url: str, locale: str = "en-US", **context: Any) -> Window:
            windows.append(open_window(browser, url, locale, **context))
            return windows[-1]

        yield open_one
    assert [request for window in windows for request in window.foreign] == []
    assert [error for window in windows for error in window.errors] == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the log of the servers a failed test has used."""
    report = yield
    if report.failed:
        for server in getattr(item, "servers", []):
            if server.log:
                report.sections.append((f"log of the server on port {server.port}", server.log[-8_000:]))
    return report
