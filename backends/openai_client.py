"""Streams answers from any server that speaks the OpenAI chat protocol. Knows no engine, trusts nothing it is sent.

Of what arrives only `choices[0].delta.content`, `finish_reason`, `usage` and `error` are read; line, answer and error
sizes and all waiting times are bounded.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import httpx

from backends.errors import Busy, EngineFailed, InvalidRequest, QuartetError
from backends.types import Delta, Message, SamplingParams, Usage

MAX_LINE_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_SENTENCE = 400

Body = dict[str, Any]


class OpenAIChatModel:
    """A ChatModel over `base_url` (it ends in /v1). `prepared` may change each request body (a dialect).

    `context_length` is what the server says that it takes, in tokens; the timeouts are in seconds.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        prepared: Callable[[Body], Body] | None = None,
        *,
        context_length: int | None = None,
        first_token_timeout: float = 300.0,
        idle_timeout: float = 60.0,
    ) -> None:
        self.context_length = context_length
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._model = model
        self._prepared = prepared
        self._first_token_timeout = first_token_timeout
        self._idle_timeout = idle_timeout
        self._client = new_client(base_url, api_key)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece; closing it closes the connection, which is what stops the server.

        Raises InvalidRequest, Busy or EngineFailed; a stream that breaks off is EngineFailed, never a shorter answer.
        """
        body = request_body(self._model, messages, params)
        request = self._client.build_request("POST", self._url, json=self._prepared(body) if self._prepared else body)
        answer = Answer()
        deadline = asyncio.get_running_loop().time() + self._first_token_timeout
        response = await self._send(request, deadline)
        try:
            if response.status_code != httpx.codes.OK:
                raise await _refusal(response, deadline)
            async with aclosing(_lines(response, answer, self._idle_timeout, deadline)) as lines:
                async for line in lines:
                    if text := answer.read(line):
                        yield Delta(text)
                    if answer.done:
                        break
        finally:
            await response.aclose()
        yield answer.last()

    async def _send(self, request: httpx.Request, deadline: float) -> httpx.Response:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EngineFailed("The engine cannot be reached; try again in a moment.") from error
        except httpx.HTTPError as error:
            raise EngineFailed(
                "The connection to the engine broke before it answered; try again in a moment."
            ) from error
        except TimeoutError as error:
            raise _too_slow(self._first_token_timeout) from error


def new_client(base_url: str, api_key: str = "") -> httpx.AsyncClient:
    """A client that uses no proxy of the environment, follows no redirect and reuses only fresh connections."""
    # Reading the machine's certificates takes tens of milliseconds: only where they are needed.
    secure = base_url.lower().startswith("https:")
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        verify=ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=5.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=2.0),
    )


def request_body(model: str, messages: Sequence[Message], params: SamplingParams) -> Body:
    """What goes over the wire: only what was asked for, so that the model's own defaults hold for the rest."""
    wanted = {
        "max_tokens": params.max_new_tokens,
        "temperature": 0.0 if params.do_sample is False else params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "stop": list(params.stop) or None,
    }
    return {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in wanted.items() if value is not None},
    }


class Answer:
    """What is known of one answer so far: fed with lines, it gives text back, and at the end the last Delta."""

    def __init__(self) -> None:
        self.done = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        return self.done or self._finish_reason is not None

    def read(self, line: bytes) -> str:
        """The new text in one line of the event stream. Raises what the server reports as an error."""
        if not line.startswith(b"data:"):
            return ""
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return ""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _nonsense() from error
        if not isinstance(event, dict):
            raise _nonsense()
        if event.get("error") or event.get("object") == "error":
            raise _reported(event)
        self._usage = _usage(event.get("usage")) or self._usage
        return self._choice(event.get("choices"))

    def _choice(self, choices: object) -> str:
        if not choices:
            return ""
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise _nonsense()
        reason = choices[0].get("finish_reason")
        if reason in ("error", "abort"):
            raise _lost()
        if isinstance(reason, str) and reason:
            self._finish_reason = "length" if reason == "length" else "stop"
        delta = choices[0].get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        if content is not None and not isinstance(content, str):
            raise _nonsense()
        # Half a surrogate pair would break every encoder further on.
        return (content or "").encode("utf-8", "replace").decode()

    def last(self) -> Delta:
        if not self.complete:
            raise _lost()
        return Delta("", self._finish_reason or "stop", self._usage)


async def _lines(
    response: httpx.Response, answer: Answer, idle_timeout: float, first_deadline: float
) -> AsyncGenerator[bytes, None]:
    """The lines of the body as they arrive. Only events count as a sign of life, not comments or blank lines."""
    loop = asyncio.get_running_loop()
    chunks, rest, received, deadline = response.aiter_bytes(), b"", 0, first_deadline
    waited = first_deadline - loop.time()
    while True:
        chunk = await _next_chunk(chunks, deadline, waited, answer)
        if chunk is None:
            return
        received += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES or received > MAX_STREAM_BYTES:
            raise _nonsense()
        for line in lines:
            if line.startswith(b"data:"):
                deadline, waited = loop.time() + idle_timeout, idle_timeout
            yield line.rstrip(b"\r")


async def _next_chunk(chunks: AsyncIterator[bytes], deadline: float, waited: float, answer: Answer) -> bytes | None:
    """None at the end of the body; a connection that breaks after the answer was complete is an end like any other."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(chunks, None)
    except TimeoutError as error:
        if answer.complete:
            return None
        raise _too_slow(waited) from error
    except httpx.HTTPError as error:
        if answer.complete:
            return None
        raise _lost() from error


async def _refusal(response: httpx.Response, deadline: float) -> QuartetError:
    """The error that an HTTP status other than 200 stands for."""
    body = b""
    try:
        async with asyncio.timeout_at(deadline):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ERROR_BYTES:
                    break
    except (TimeoutError, httpx.HTTPError):
        body = b""
    status = response.status_code
    sentence = _sentence_in(body)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        return Busy(sentence or "The engine has too much to do; try again in a moment.", _seconds(after))
    if status in (400, 413, 422) and sentence:
        return InvalidRequest(sentence)
    if status in (401, 403):
        return EngineFailed("The engine does not accept the key; set the right one in QUARTET_ENGINE_KEY.")
    return EngineFailed(f"The engine answered with HTTP status {status}{': ' + sentence if sentence else '.'}")


def _reported(event: Mapping[str, Any]) -> QuartetError:
    """The error that the server put into the stream."""
    error = event.get("error") or event
    code = error.get("code") if isinstance(error, dict) else None
    sentence = _sentence(error)
    if code == 400 and sentence:
        return InvalidRequest(sentence)
    if code == 429:
        return Busy(sentence or "The engine has too much to do; try again in a moment.")
    return EngineFailed(f"The engine failed while it answered: {sentence}" if sentence else str(_lost()))


def _sentence_in(body: bytes) -> str:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return _sentence(parsed)


def _sentence(value: object) -> str:
    """What a person can read in {"error": {"message": ...}}, {"error": "..."}, {"message": ...} or {"detail": ...}."""
    for _ in range(3):
        if not isinstance(value, dict):
            break
        value = value.get("error") or value.get("message") or value.get("detail")
    if not isinstance(value, str):
        return ""
    clean = " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * MAX_SENTENCE]).split())
    return clean if len(clean) <= MAX_SENTENCE else clean[: MAX_SENTENCE - 1] + "…"


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    # type() and not isinstance: True is an int.
    if type(prompt) is int and type(completion) is int and min(prompt, completion) >= 0:
        return Usage(prompt, completion)
    return None


def _seconds(header: str) -> int:
    return min(int(header), 3600) if header.isascii() and header.isdigit() and len(header) < 6 else 5


def _lost() -> EngineFailed:
    return EngineFailed("The engine was lost while it answered; ask again in a moment.")


def _nonsense() -> EngineFailed:
    return EngineFailed(
        "The engine sent something that is no answer in the OpenAI format; check that its address is right."
    )


def _too_slow(seconds: float) -> EngineFailed:
    return EngineFailed(
        f"The engine sent nothing for {seconds:.0f} seconds, so the request was given up; try again later."
    )
