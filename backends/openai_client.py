"""Streams answers from any server that speaks the OpenAI chat protocol. Knows no engine; bounds sizes and times."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import cast

import httpx

from backends.errors import EngineFailed, QuartetError
from backends.openai_wire import Answer, Body, lost, nonsense, refusal, request_body, too_slow
from backends.types import Delta, Message, SamplingParams

MAX_LINE_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
# How long to wait for the usage once the answer itself is complete.
_USAGE_SECONDS = 5.0


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
            raise too_slow(self._first_token_timeout) from error


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


async def _lines(
    response: httpx.Response, answer: Answer, idle_timeout: float, first_deadline: float
) -> AsyncGenerator[bytes, None]:
    """The lines of the body as they arrive. Only events count as a sign of life, not comments or blank lines."""
    loop = asyncio.get_running_loop()
    rest, received, deadline, waited = b"", 0, first_deadline, first_deadline - loop.time()
    async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
        while (chunk := await _next_chunk(chunks, deadline, waited, answer)) is not None:
            received += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES or received > MAX_STREAM_BYTES:
                raise nonsense()
            for line in lines:
                if line.startswith(b"data:"):
                    deadline, waited = loop.time() + idle_timeout, idle_timeout
                yield line.rstrip(b"\r")
            if answer.complete:
                deadline = min(deadline, loop.time() + _USAGE_SECONDS)


async def _next_chunk(chunks: AsyncIterator[bytes], deadline: float, waited: float, answer: Answer) -> bytes | None:
    """None at the end of the body; a connection that breaks after the answer was complete is an end like any other."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(chunks, None)
    except TimeoutError as error:
        if answer.complete:
            return None
        raise too_slow(waited) from error
    except httpx.HTTPError as error:
        if answer.complete:
            return None
        raise lost() from error


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
    return refusal(response.status_code, body, response.headers.get("retry-after", ""))
