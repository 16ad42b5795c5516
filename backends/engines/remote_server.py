"""What an OpenAI-compatible server at a URL serves, and what is wrong when it does not. Knows no engine."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from backends.errors import EngineFailed, InvalidRequest
from backends.openai_client import new_client

_MAX_LIST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Served:
    """What a server says that it serves; `context_length` in tokens where it tells."""

    name: str
    context_length: int | None


def api_root(url: str) -> str:
    """`http://host:8000` and `http://host:8000/v1/` both become `http://host:8000/v1`. Raises InvalidRequest."""
    parts = urlsplit(url.strip())
    try:
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        well_formed = False
    if not well_formed or parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest(
            "The engine's address must look like http://host:port/v1; a key goes into QUARTET_ENGINE_KEY, not into it."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


async def served_model(root: str, key: str, wanted: str = "", patience: float = 10.0) -> Served:
    """Asks `/models` once: `wanted`, or the first model there is. `patience` in seconds. Raises EngineFailed."""
    place = urlsplit(root).netloc
    try:
        async with (
            asyncio.timeout(patience),
            new_client(root, key) as client,
            client.stream("GET", f"{root}/models") as response,
        ):
            body = await _bounded(response)
            status = response.status_code
    except (httpx.HTTPError, TimeoutError) as error:
        raise EngineFailed(
            f"The model server at {place} does not answer; check --engine-url and that it runs."
        ) from error
    if status in (401, 403):
        raise EngineFailed(f"The model server at {place} does not accept the key; set it in QUARTET_ENGINE_KEY.")
    models = _models(body) if status == httpx.codes.OK else []
    if not models:
        raise EngineFailed(
            f"The server at {place} does not list its models as an OpenAI-compatible server does (HTTP status "
            f"{status}); check that --engine-url ends where its /models begins, most often in /v1."
        )
    if not wanted:
        return models[0]
    for served in models:
        if served.name == wanted:
            return served
    names = ", ".join(served.name for served in models[:5])
    raise EngineFailed(f"The model server at {place} has no model {wanted}; it has {names}.")


async def _bounded(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_LIST_BYTES:
            return b""
    return body


def _models(body: bytes) -> list[Served]:
    try:
        entries = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and 0 < len(name) <= 300 and name.isprintable():
            length = entry.get("max_model_len")
            found.append(Served(name, length if type(length) is int and length > 0 else None))
    return found
