"""The client against a server that says what each test scripts: good answers, errors, lies, silence, a broken line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends import openai_client, openai_wire
from backends.errors import Busy, EngineFailed, InvalidRequest, QuartetError
from backends.openai_client import OpenAIChatModel
from backends.types import Delta, Message, Patience, SamplingParams, Usage
from tests.backends.loopback import listening

HELLO = [Message("system", "Be brief."), Message("user", "Hello")]


def event(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n'
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """What the server saw: the requests, and when a client hung up."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.hung_up = asyncio.Event()
        self.url = ""


@asynccontextmanager
async def upstream(script: Script, status: str = "200 OK", headers: str = "") -> AsyncIterator[Upstream]:
    """Reads one request, sends the head, then does what the script says, then closes."""
    seen = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length")
        )
        seen.requests.append((head, json.loads(await reader.readexactly(length))))
        answer_head = f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\n{headers}Connection: close\r\n\r\n"
        writer.write(answer_head.encode())
        watch = asyncio.create_task(reader.read())
        watch.add_done_callback(lambda _: seen.hung_up.set())
        try:
            await script(writer)
        except ConnectionError:
            seen.hung_up.set()
        finally:
            watch.cancel()

    async with listening(serve) as url:
        seen.url = f"{url}/v1"
        yield seen


def sends(*chunks: bytes, pause: float = 0.0) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


async def answer(url: str, params: SamplingParams | None = None, **options: Any) -> list[Delta]:
    model = OpenAIChatModel(url, "tiny", "secret", **options)
    try:
        return [delta async for delta in model.stream(HELLO, params or SamplingParams())]
    finally:
        await model.close()


async def failure(script: Script, status: str = "200 OK", headers: str = "", **options: Any) -> QuartetError:
    async with upstream(script, status, headers) as server:
        with pytest.raises(QuartetError) as caught:
            await answer(server.url, **options)
        return caught.value


# -- good answers -------------------------------------------------------------------------------------------------


async def test_text_arrives_in_pieces_and_the_end_comes_once_with_the_usage() -> None:
    async with upstream(sends(event(""), event("Good "), event("day"), event(None, "stop"), USAGE, DONE)) as server:
        assert await answer(server.url) == [Delta("Good "), Delta("day"), Delta("", "stop", Usage(7, 2))]


async def test_only_what_was_asked_for_goes_over_the_wire() -> None:
    async with upstream(sends(event("x", "length"), DONE)) as server:
        assert (await answer(server.url))[-1] == Delta("", "length", None)
        params = SamplingParams(max_new_tokens=9, temperature=0.7, top_k=5, do_sample=False, seed=3, stop=("\n",))
        await answer(server.url, params)
    (head, plain), (_, full) = server.requests
    assert head.startswith("POST /v1/chat/completions ")
    assert "authorization: bearer secret" in head.lower()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    always = {"model": "tiny", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    assert plain == always
    assert full == always | {"max_tokens": 9, "temperature": 0.0, "top_k": 5, "seed": 3, "stop": ["\n"]}


async def test_asking_to_sample_is_said_and_what_is_not_ours_goes_along() -> None:
    async with upstream(sends(event("x", "stop"), DONE)) as server:
        extra = {"min_p": 0.1, "model": "other", "stream": False}
        await answer(server.url, SamplingParams(do_sample=True, extra=extra))
    body = server.requests[0][1]
    assert (body["do_sample"], body["min_p"], body["model"], body["stream"]) == (True, 0.1, "tiny", True)
    assert "temperature" not in body


async def test_a_server_with_a_dialect_gets_its_body_changed() -> None:
    async with upstream(sends(event("x", "stop"), DONE)) as server:
        await answer(server.url, prepared=lambda body: body | {"extra": 1})
    assert server.requests[0][1]["extra"] == 1


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_however_the_bytes_are_cut_the_text_is_the_same(size: int) -> None:
    whole = b": ping\r\n\r\n" + event("你好, ") + event("wörld 🌍").replace(b"\n", b"\r\n") + event(None, "stop") + DONE
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    async with upstream(sends(*pieces)) as server:
        deltas = await answer(server.url)
    assert "".join(delta.text for delta in deltas) == "你好, wörld 🌍"


async def test_unknown_fields_and_kinds_of_event_are_ignored() -> None:
    odd = b'event: message\nid: 4\ndata: {"choices": [], "tools": "<script>"}\n\n'
    async with upstream(
        sends(odd, event("hi", model="other", service_tier=[]), event(None, "content_filter"), DONE)
    ) as server:
        assert await answer(server.url) == [Delta("hi"), Delta("", "stop", None)]


async def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    async with upstream(sends(b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n', DONE)) as server:
        assert (await answer(server.url))[0].text.encode() == b"a?"


@pytest.mark.parametrize("usage", [{"prompt_tokens": "7"}, {"prompt_tokens": True, "completion_tokens": 1}, [], -1])
async def test_a_usage_that_makes_no_sense_is_no_usage(usage: object) -> None:
    async with upstream(sends(event("hi", "stop", usage=usage), DONE)) as server:
        assert (await answer(server.url))[-1].usage is None


async def test_an_answer_that_is_complete_does_not_wait_for_a_server_that_forgets_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_client, "_USAGE_SECONDS", 0.2)
    async with asyncio.timeout(10), upstream(sends(event("hi", "stop"), pause=30)) as server:
        assert (await answer(server.url))[-1] == Delta("", "stop", None)


# -- stopping -----------------------------------------------------------------------------------------------------


async def test_closing_the_iterator_hangs_up() -> None:
    async with upstream(sends(*[event("word ")] * 2000, pause=0.01)) as server:
        model = OpenAIChatModel(server.url, "tiny")
        stream = model.stream(HELLO, SamplingParams())
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 1.0)
        await model.close()


async def test_cancelling_before_the_first_token_hangs_up() -> None:
    async with upstream(sends(b"", pause=30)) as server:
        task = asyncio.create_task(answer(server.url))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 1.0)


# -- errors -------------------------------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_the_request_s_fault_in_the_engine_s_words() -> None:
    body = b'{"error": {"message": "This model\'s maximum context length is 1024 tokens.", "code": 400}}'
    error = await failure(sends(body), "400 Bad Request")
    assert isinstance(error, InvalidRequest)
    assert error.message == "This model's maximum context length is 1024 tokens."


async def test_too_many_requests_is_busy_with_the_time_to_wait() -> None:
    error = await failure(sends(b"{}"), "429 Too Many Requests", "Retry-After: 17\r\n")
    assert isinstance(error, Busy)
    assert error.retry_after == 17


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        ("401 Unauthorized", b'{"error": "bad key sk-123"}', "does not accept the key"),
        ("404 Not Found", b'{"error": {"message": "no model tiny"}}', "status 404: no model tiny"),
        ("500 Internal Server Error", b"<html>Traceback", "HTTP status 500."),
        ("302 Found", b"", "HTTP status 302."),
        ("503 Service Unavailable", b'{"detail": "loading"}', "status 503: loading"),
    ],
)
async def test_other_refusals_are_the_engine_s_fault(status: str, body: bytes, said: str) -> None:
    error = await failure(sends(body), status, "Location: http://127.0.0.1:1/\r\n")
    assert isinstance(error, EngineFailed)
    assert said in error.message
    assert "sk-123" not in error.message


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b'{"error": {"message": "prompt too long", "code": 400}}', InvalidRequest, "prompt too long"),
        (b'{"error": {"message": "wait", "code": 429}}', Busy, "wait"),
        (b'{"error": "EngineCore encountered an issue"}', EngineFailed, "while it answered: EngineCore encountered"),
        (b'{"object": "error", "message": "boom"}', EngineFailed, "boom"),
        (b'{"error": {"message": {"deep": []}}}', EngineFailed, "was lost while it answered"),
    ],
)
async def test_an_error_in_the_stream_is_raised_after_the_text_before_it(
    data: bytes, kind: type[QuartetError], said: str
) -> None:
    async with upstream(sends(event("half "), b"data: " + data + b"\n\n", DONE)) as server:
        model = OpenAIChatModel(server.url, "tiny")
        stream = model.stream(HELLO, SamplingParams())
        assert (await anext(stream)).text == "half "
        with pytest.raises(kind, match=said):
            await anext(stream)
        await model.close()


async def test_a_long_or_colourful_error_becomes_one_short_line() -> None:
    error = await failure(
        sends(json.dumps({"error": "\x1b[31mbad\n\tthing " + "x" * 9000}).encode()), "400 Bad Request"
    )
    assert error.message.startswith("[31mbad thing xxx")
    assert len(error.message) == 400


async def test_a_stream_that_breaks_off_is_never_a_shorter_answer() -> None:
    error = await failure(sends(event("The answer is not ")))
    assert isinstance(error, EngineFailed)
    assert "was lost while it answered" in error.message


@pytest.mark.parametrize(
    "nonsense",
    [
        b"data: {half\n\n",
        b"data: 42\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"choices": "x"}\n\n',
        b'data: {"choices": [{"delta": {"content": {"a": 1}}}]}\n\n',
        b"data: " + b"x" * (openai_wire.MAX_LINE_BYTES + 10),
        b"\xff\xfe\x00" * 500_000,
    ],
    ids=["half", "number", "deep", "choices", "content", "endless-line", "binary"],
)
async def test_nonsense_is_named_as_such(nonsense: bytes) -> None:
    error = await failure(sends(nonsense))
    assert isinstance(error, EngineFailed)
    assert "no answer in the OpenAI format" in error.message


async def test_an_answer_without_end_is_cut_off_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "MAX_STREAM_BYTES", 200_000)
    error = await failure(sends(*[event("x" * 5000)] * 100))
    assert isinstance(error, EngineFailed)


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(EngineFailed, match="cannot be reached"):
        await answer("http://127.0.0.1:9/v1")


async def test_a_server_that_says_nothing_is_given_up() -> None:
    error = await failure(sends(b"", pause=30), patience=Patience(first_token=0.3))
    assert "sent nothing for" in error.message


async def test_pings_are_no_sign_of_life() -> None:
    error = await failure(sends(event("word"), *[b": ping\n\n"] * 300, pause=0.05), patience=Patience(next_token=0.4))
    assert isinstance(error, EngineFailed)
    assert "sent nothing for" in error.message


# -- thoughts, tools, and texts without a template ------------------------------------------------------------------


def said(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_an_engine_that_tells_thoughts_apart_is_believed(name: str) -> None:
    async with upstream(sends(said(**{name: "Hm."}), said(content="Four."), event(None, "stop"), DONE)) as server:
        deltas = await answer(server.url)
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    assert "".join(delta.text for delta in deltas) == "Four."


async def test_marks_of_a_thought_are_read_here_and_events_that_arrive_together_keep_their_pieces() -> None:
    texts = ["<thi", "nk>Hm", ".</think>", "\n\nF", "ou", "r."]
    async with upstream(sends(b"".join(event(text) for text in texts) + event(None, "stop") + DONE)) as server:
        deltas = await answer(server.url)
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    assert [piece for delta in deltas for piece in delta.pieces] == ["F", "ou", "r."]
    assert "".join(delta.text for delta in deltas) == "Four."


async def test_a_thought_that_the_prompt_opened_unless_the_request_turns_it_off() -> None:
    script = sends(event("Hm.</think>Four.", "stop"), DONE)
    for options, expected in (({}, ("Hm.", "Four.")), ({"enable_thinking": False}, ("", "Hm.</think>Four."))):
        async with upstream(script) as server:
            model = OpenAIChatModel(server.url, "tiny", opens_thought=True)
            params = SamplingParams(extra={"chat_template_kwargs": options})
            deltas = [delta async for delta in model.stream(HELLO, params)]
            await model.close()
        assert ("".join(d.reasoning for d in deltas), "".join(d.text for d in deltas)) == expected


async def test_tool_calls_and_logprobs_go_along() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
    logprobs = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1.0}]}}]}
    told = b"data: " + json.dumps(logprobs).encode() + b"\n\n"
    async with upstream(sends(told, said(tool_calls=[call]), event(None, "tool_calls"), DONE)) as server:
        first, second, last = await answer(server.url)
    assert (first.text, first.extra) == ("a", {"logprobs": logprobs["choices"][0]["logprobs"]})
    assert second.extra == {"tool_calls": [call]}
    assert last.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "calls", ["x", ["x"], [{"index": "0"}], [{"function": "f"}], [{"function": {"arguments": {}}}]]
)
async def test_tool_calls_that_make_no_sense_are_named_as_such(calls: Any) -> None:
    error = await failure(sends(said(tool_calls=calls)))
    assert "no answer in the OpenAI format" in error.message


async def test_a_text_without_template_goes_to_the_other_address() -> None:
    done = b'data: {"choices": [{"index": 0, "text": " there was", "finish_reason": "length"}]}\n\n'
    async with upstream(sends(done, DONE)) as server:
        model = OpenAIChatModel(server.url, "tiny")
        deltas = [delta async for delta in model.stream([Message("user", "Once")], SamplingParams(raw=True))]
        await model.close()
    assert "".join(delta.text for delta in deltas) == " there was"
    head, body = server.requests[0]
    assert head.startswith("POST /v1/completions ")
    assert body["prompt"] == "Once"
    assert "messages" not in body


async def test_a_client_that_was_closed_opens_nothing_again() -> None:
    async with upstream(sends(event("hi"))) as server:
        model = OpenAIChatModel(server.url, "tiny")
        asked = asyncio.ensure_future(anext(model.stream(HELLO, SamplingParams())))
        await asyncio.sleep(0)  # it is about to open its connections
        await model.close()
        with pytest.raises(EngineFailed, match="was ended"):
            await asked
