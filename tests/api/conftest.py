"""What most tests of the API ask for: a Quartet with a token whose model follows a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running_server import RunningServer, running_server
from tests.scripted_engine import ScriptedEngine, scripted_engine


@pytest.fixture(scope="session")
def _engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture
def engine(_engine: ScriptedEngine) -> ScriptedEngine:
    """The model's server; it answers every question with five words, until a test says otherwise."""
    _engine.reset()
    return _engine


@pytest.fixture(scope="session")
def _answering(_engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    token = "a-token-of-the-tests"
    env = {"QUARTET_TOKEN": token, "QUARTET_ENGINE_KEY": "engine-key"}
    flags = ("--engine-url", _engine.url, "--log-format", "json")
    folder = tmp_path_factory.mktemp("answering")
    with running_server(folder, *flags, env=env, headers={"Authorization": token}) as server:
        yield server


@pytest.fixture
def answering(_answering: RunningServer, engine: ScriptedEngine, request: pytest.FixtureRequest) -> RunningServer:
    """A server with a token, a JSON log and `engine` behind it, shared by the tests of this process: leave no
    knowledge base in it. Its headers carry the token."""
    request.node.servers = [_answering]
    engine.wait_until_idle(10.0)  # whom the test before has left
    _answering.wait_for_model()
    return _answering
