"""The OpenAPI document, and calls made from it: none is answered with a 500, or with another thing than it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.running_server import RunningServer, running_server
from tests.scripted_engine import ScriptedEngine

EXAMPLES = 25  # of each operation
# What is loaded here may be fetched from a hub, or take the model away, and a first account would shut the door.
_SWITCHES = ("/api/models/load", "/api/models/unload", "/api/users")


@pytest.fixture(scope="module")
def described(_engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own, which may be filled with whatever comes."""
    with running_server(tmp_path_factory.mktemp("described"), "--engine-url", _engine.url) as server:
        server.wait_for_model()
        server.post("/api/knowledge-bases", json={"name": "0"}).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def document(described: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = described.get("/openapi.json").json()
    return found


def test_each_operation_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert operation["responses"]["default"], (method, path)
            assert "422" not in operation["responses"], (method, path)


@pytest.mark.timeout(300)
def test_calls_made_from_the_document(described: RunningServer, document: dict[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(document)
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in _SWITCHES:
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def call(case: Any) -> None:
            nonlocal tried
            tried += 1
            response = case.call(base_url=described.url, timeout=60)
            assert response.status_code != 500, response.text
            assert response.status_code < 500 or response.json()["error"]["code"] != "internal", response.text
            case.validate_response(response, checks=[content_type_conformance, response_schema_conformance])

        call()
    assert tried > 200
    assert described.get("/health").json()["ready"]
    assert "Traceback" not in described.log
