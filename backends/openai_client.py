"""Streams answers from any server that speaks the OpenAI chat protocol. Knows no engine; bounds sizes and times."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import orjson

from backends.errors import EngineFailed, InvalidRequest, QuartetError
from backends.openai_wire import Answer, Body, lost, nonsense, refusal, request_body, too_slow
from backends.thinking import ThoughtSplitter
from backends.types import Delta, Message, Patience, SamplingParams

if TYPE_CHECKING:
    import aiohttp

MAX_STREAM_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
# How long to wait for the usage once the answer itself is complete.
_USAGE_SECONDS = 5.0
# How long for the last bytes of the response after its last event: then the next request can have the connection.
_GOODBYE_SECONDS = 0.05


class OpenAIChatModel:
    """A ChatModel over `base_url` (it ends in /v1). `prepared` may change each request body (a dialect).

    `context_length` is what the server says that it takes, in tokens; `opens_thought` says that the model's prompts end
    inside a thought.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        prepared: Callable[[Body], Body] | None = None,
        *,
        context_length: int | None = None,
        opens_thought: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.context_length = context_length
        self._root, self._model, self._key = base_url.rstrip("/"), model, api_key
        self._prepared = prepared
        self._opens_thought = opens_thought
        self._patience = patience or Patience()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close the connections; whoever is about to ask gets EngineFailed."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def stream(self, messages: Sequence[Message], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece; closing it closes the connection, which is what stops the server.

        Raises InvalidRequest, Busy or EngineFailed; a stream that breaks off is EngineFailed, never a shorter answer.
        """
        body = request_body(self._model, messages, params)
        answer = Answer(ThoughtSplitter(self._opens_thought and _may_think(params)))
        deadline = asyncio.get_running_loop().time() + self._patience.first_token
        url = self._root + ("/completions" if params.raw else "/chat/completions")
        response = await self._send(url, orjson.dumps(self._prepared(body) if self._prepared else body), deadline)
        try:
            if response.status != httpx.codes.OK:
                if params.raw and response.status in (404, 405):
                    raise InvalidRequest("The engine in service completes no plain text: use /v1/chat/completions.")
                raise await _refusal(response, deadline)
            reader = _Reader(response.content, answer, deadline, self._patience)
            while data := await reader.read():
                for delta in answer.feed(data):
                    yield delta
                if answer.error is not None:
                    raise answer.error
                if answer.done:
                    break
            yield answer.last()
            await reader.goodbye()
        finally:
            response.close()

    async def _send(self, url: str, body: bytes, deadline: float) -> aiohttp.ClientResponse:
        session = await self._opened()
        import aiohttp

        try:
            async with asyncio.timeout_at(deadline):
                return await session.post(url, data=body, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineFailed("The engine cannot be reached; try again in a moment.") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineFailed(
                "The connection to the engine broke before it answered; try again in a moment."
            ) from error
        except TimeoutError as error:
            raise too_slow(self._patience.first_token) from error

    async def _opened(self) -> aiohttp.ClientSession:
        """The session, which uses no proxy of the environment, keeps no cookie, unpacks nothing."""
        if self._session is None:
            # Its import takes a quarter of a second: with the first question, and not on the event loop.
            await asyncio.to_thread(importlib.import_module, "aiohttp")
        if self._closed:
            raise EngineFailed("The engine was ended; try again in a moment.")
        if self._session is None:  # still: another request may have come meanwhile
            import aiohttp

            secure = self._root.lower().startswith("https:")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=2.0, ssl=ssl.create_default_context() if secure else True
                ),
                headers={
                    "Content-Type": "application/json",
                    "Accept-Encoding": "identity",
                    **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            )
        return self._session


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


class _Reader:
    """The body of one response as it arrives, within its limits of size and time."""

    def __init__(self, content: aiohttp.StreamReader, answer: Answer, deadline: float, patience: Patience) -> None:
        self._content, self._answer = content, answer
        # Until then something must come; how long that was, and how long it is after each event.
        self._deadline, self._waited, self._next = deadline, patience.first_token, patience.next_token
        self._events, self._received = 0, 0

    async def read(self) -> bytes:
        """What has arrived, b"" at the end. A connection that breaks after the answer was complete has ended."""
        import aiohttp

        self._extend()
        try:
            async with asyncio.timeout_at(self._deadline):
                data = await self._content.readany()
        except TimeoutError as error:
            if self._answer.complete:
                return b""
            raise too_slow(self._waited) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            if self._answer.complete:
                return b""
            raise lost() from error
        self._received += len(data)
        if self._received > MAX_STREAM_BYTES:
            raise nonsense()
        return data

    def _extend(self) -> None:
        """Only events are a sign of life."""
        now = asyncio.get_running_loop().time()
        if self._answer.events > self._events:
            self._events, self._waited = self._answer.events, self._next
            self._deadline = now + self._next
        if self._answer.complete:
            self._deadline = min(self._deadline, now + _USAGE_SECONDS)

    async def goodbye(self) -> None:
        """Reads to the end where it is near."""
        import aiohttp

        with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                while not self._content.at_eof():
                    await self._content.readany()


def _may_think(params: SamplingParams) -> bool:
    """Whether the request leaves the thinking on, in the way that vLLM and Qwen's templates take it."""
    options = params.extra.get("chat_template_kwargs")
    off = isinstance(options, dict) and options.get("enable_thinking") is False
    return not off and not params.raw


async def _refusal(response: aiohttp.ClientResponse, deadline: float) -> QuartetError:
    """The error that an HTTP status other than 200 stands for."""
    import aiohttp

    body = b""
    try:
        async with asyncio.timeout_at(deadline):
            while len(body) <= MAX_ERROR_BYTES and (data := await response.content.readany()):
                body += data
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        body = b""
    return refusal(response.status, body, response.headers.get("retry-after", ""))
