"""Without a hub id nothing leaves the machine: the program and its children run under a guard that writes it down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import checkpoints, documents
from tests.running_server import ROOT, StartServer

GUARD = Path(__file__).parent / "offline_guard"


@pytest.mark.timeout(300)
def test_no_call_leaves_the_machine(start_server: StartServer, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts.log"
    # Also without the variables that tell the hub libraries to stay at home: they are ours to set.
    guarded = {"PYTHONPATH": f"{GUARD}:{ROOT}", "OFFLINE_GUARD_LOG": str(attempts), "HF_HUB_OFFLINE": "0"}
    server = start_server("--model-path", str(checkpoints.knows_by_heart()), env=guarded)
    server.wait_for_model()
    with server.client(timeout=120) as client:
        assert client.get("/").status_code == 200
        assert client.post("/api/knowledge-bases", json={"name": "quiet"}).status_code in (200, 201)
        files = [("files", ("a.md", documents.MARKDOWN.encode()))]
        (record,) = client.post("/api/knowledge-bases/quiet/files", params={"wait": "true"}, files=files).json()
        assert record["state"] == "searchable"
        answer = client.post("/", json={"prompt": "Who keeps the bees?", "langchain": True, "knowledge_base": "quiet"})
        assert answer.status_code == 200
    server.stop()
    assert not attempts.exists(), attempts.read_text()
