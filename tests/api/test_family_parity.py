"""Each family over HTTP, from its original checkpoint on: loaded through the API, it answers as the original did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.running_server import RunningServer, running_server
from tests.shared_data import requires_shared

# baichuan-7b is a base model: its original has no conversations.
CHATS = [name for name in NAMES if name != "baichuan-7b"]
pytestmark = [requires_shared, pytest.mark.xdist_group("family-parity"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all: the models are switched in it."""
    with running_server(tmp_path_factory.mktemp("families"), env={"QUARTET_PRECISION": "float32"}) as server:
        yield server


def chats(name: str) -> list[dict[str, Any]]:
    """Its conversations, less those of which the original makes control tokens where the user wrote text."""
    cases = [case for case in golden(name)["cases"] if case["kind"] == "chat" and "greedy_ids" in case]
    return [case for case in cases if "params" not in case and not case.get("user_text_becomes_control_ids")]


@pytest.mark.parametrize("name", CHATS)
def test_the_greedy_text_is_that_of_the_original(
    name: str, running: RunningServer, request: pytest.FixtureRequest
) -> None:
    request.node.servers = [running]
    told = golden(name)
    with running.client(timeout=500) as client:
        load = {"model_path": str(FAMILIES / name), "model_type": name, "backend": "transformers"}
        loaded = client.post("/api/models/load", json=load)
        assert (loaded.status_code, loaded.json().get("state")) == (200, "ready"), loaded.text
        for case in chats(name):
            body: dict[str, Any] = {"model": name, "messages": case["messages"], "temperature": 0, "max_tokens": 16}
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, (case["id"], reply.text)
            (choice,) = reply.json()["choices"]
            text, expected = choice["message"]["content"], case["greedy_decoded_skip_special"]
            if set(case["greedy_ids"]) & set(told["stop_ids"]):  # the reference went on behind its own end
                assert choice["finish_reason"] == "stop", case["id"]
                assert expected.startswith(text.rstrip("\ufffd")), case["id"]
            else:
                assert text == expected, case["id"]
