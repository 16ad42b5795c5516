"""A citation names file, page and passage, the same ones in every shape that an answer has over HTTP and WebSocket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import documents
from tests.api.test_article import objects
from tests.api.test_article_socket import frames, talk
from tests.running_server import RunningServer, StartServer

ASKED = "What was the keeper of the lighthouse called?"


@pytest.fixture
def lighthouse(start_server: StartServer) -> RunningServer:
    """A server without a model, whose one knowledge base is a PDF of three pages."""
    running = start_server()
    running.post("/api/knowledge-bases", json={"name": "coast"}).raise_for_status()
    files = {"files": ("lighthouse.pdf", documents.english_pdf())}
    added = running.post("/api/knowledge-bases/coast/files", files=files, params={"wait": "true"}).json()
    assert [record["state"] for record in added] == ["searchable"]
    return running


def openai_events(body: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [
        json.loads(line)["choices"][0]["delta"] for line in lines if line != "[DONE]" and json.loads(line)["choices"]
    ]


async def test_citations_are_the_same_in_every_shape(lighthouse: RunningServer) -> None:
    found = lighthouse.post("/api/knowledge-bases/coast/search", json={"query": ASKED}).json()["hits"][0]
    assert (found["file"], found["page"]) == ("lighthouse.pdf", 2)
    assert "Mara Venn" in found["text"]

    article = {"prompt": ASKED, "langchain": True, "knowledge_base": "coast"}
    chat = {"model": "kb:coast", "messages": [{"role": "user", "content": ASKED}]}
    async with talk(lighthouse) as socket:
        await socket.send(json.dumps({**article, "stream_format": "json"}))
        over_socket = json.loads((await frames(socket))[-1])
    whole = lighthouse.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]
    events = openai_events(lighthouse.post("/v1/chat/completions", json={**chat, "stream": True}).text)
    shapes: dict[str, Any] = {
        "article": lighthouse.post("/", json=article).json()["sources"],
        "article, streamed": objects(lighthouse.post("/", json={**article, "use_stream_chat": True}).content)[-1][
            "sources"
        ],
        "article, passages alone": lighthouse.post("/", json={**article, "mode": "retrieve"}).json()["sources"],
        "socket": over_socket["sources"],
        "OpenAI": whole["sources"],
        "OpenAI, streamed": events[-1]["sources"],
    }
    for shape, sources in shapes.items():
        cited = {key: sources[0][key] for key in found}
        assert (shape, sources[0]["number"], cited) == (shape, 1, found)
        assert all(source["text"] in source["quoted"] for source in sources), shape
        assert [source["number"] for source in sources] == list(range(1, len(sources) + 1)), shape
