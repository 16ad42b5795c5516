"""A small round of `python -m bench.fuzz`, always the same inputs: no 500, no hang, nothing left behind."""

from __future__ import annotations

import time

import pytest

from bench.fuzz import fuzz
from bench.fuzz_inputs import VALID
from tests.running_server import RunningServer

INPUTS = 600


@pytest.mark.timeout(300)
def test_bodies_that_are_nearly_right(answering: RunningServer) -> None:
    report = fuzz(answering, INPUTS, seed=7)
    assert (report.wrong, report.hangs) == ([], 0)
    assert report.answers.total() == INPUTS
    assert report.answers["HTTP 200"] > INPUTS / 20  # some are right
    assert report.answers["HTTP 400"] > INPUTS / 10
    assert report.answers["WS frames"] > INPUTS / 10
    before, after = report.memory
    assert after < 1.3 * before
    assert "Traceback" not in answering.log
    deadline = time.monotonic() + 30
    while answering.get("/api/status").json()["queue"]:
        assert time.monotonic() < deadline, "answers are still being made"
        time.sleep(0.05)


@pytest.mark.parametrize("path", [path for path in VALID if path not in ("socket", "/v1/embeddings")])
def test_what_the_fuzzer_begins_with_is_right(answering: RunningServer, path: str) -> None:
    for body in VALID[path]:
        if "fuzz" not in str(body):
            assert answering.post(path, json=body).status_code == 200, body
