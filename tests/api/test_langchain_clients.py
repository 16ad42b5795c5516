"""LangChain's own clients of the article's service, against ours: what they send is answered as they expect it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running_server import RunningServer, running_server
from tests.scripted_engine import ScriptedEngine, scripted_engine

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def guarded(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    env = {"QUARTET_TOKEN": TOKEN}
    headers = {"Authorization": TOKEN}
    folder = tmp_path_factory.mktemp("guarded")
    with running_server(folder, "--engine-url", engine.url, env=env, headers=headers) as server:
        server.wait_for_model()
        yield server


def test_pai_eas_chat_endpoint(guarded: RunningServer, engine: ScriptedEngine) -> None:
    from langchain_community.chat_models import PaiEasChatEndpoint
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    client = PaiEasChatEndpoint(eas_service_url=guarded.url, eas_service_token=TOKEN, timeout=60)
    talk = [SystemMessage("Be brief."), HumanMessage("hello"), AIMessage("hi"), HumanMessage("and now?")]
    assert client.invoke(talk).content == engine.text(5)
    assert [message["content"] for message in engine.requests[-1]["messages"]] == [
        "Be brief.",
        "hello",
        "hi",
        "and now?",
    ]


def test_pai_eas_endpoint(guarded: RunningServer, engine: ScriptedEngine) -> None:
    from langchain_community.llms.pai_eas_endpoint import PaiEasEndpoint

    client = PaiEasEndpoint(eas_service_url=guarded.url, eas_service_token=TOKEN)
    assert client.invoke("What is it?", stop=["never said"]) == engine.text(5)
    # Each chunk of its stream is the answer so far: the last one is all of it.
    assert list(client.stream("What is it?", stop=["never said"]))[-1] == engine.text(5)
