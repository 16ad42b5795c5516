"""An engine that is killed in the middle of many answers: everybody is told, and it comes back by itself."""

from __future__ import annotations

import pytest

from bench.kill_engine import run
from tests import checkpoints
from tests.running_server import StartServer


@pytest.mark.timeout(400)
def test_every_stream_is_told_and_the_engine_comes_back(start_server: StartServer) -> None:
    server = start_server("--model-path", str(checkpoints.never_ends()))
    server.wait_for_model()
    outcome = run(server, clients=16)
    assert (len(outcome.told), outcome.silent) == (16, 0)
    assert max(outcome.told) < 10  # the promise is two seconds, on a machine that does nothing else
