"""`/api/status` and the routes under `/api/models`. They translate; the work is ModelManager's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import psutil
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from api import live
from api.errors import error_shape, unexpected
from api.visitor import ADMINS_ONLY, Who, seen_by
from backends.catalog import CATALOG, CatalogEntry
from backends.errors import Conflict, InvalidRequest, QuartetError
from backends.hardware import MemoryNeed
from backends.models import ModelSpec, ModelStatus
from rag.types import EmbeddingStatus, KnowledgeBase

if TYPE_CHECKING:
    from backends.models import ModelManager
    from rag.knowledge import KnowledgeService

EVENTS = "text/event-stream; charset=utf-8"
_PROGRESS = {"text/event-stream": {"schema": {"type": "string"}}}


class LoadModel(BaseModel):
    """`model_path` is a folder of the server or a hub id such as `Qwen/Qwen3-0.6B`; the rest is found out by itself."""

    model_config = ConfigDict(protected_namespaces=())

    model_path: str
    model_type: str = ""
    backend: Literal["auto", "vllm", "transformers", "openai"] = "auto"


@dataclass(frozen=True)
class Memory:
    """Main memory of the server, in bytes."""

    total: int
    available: int


@dataclass(frozen=True)
class Status:
    """`model` is the model in service and the state of the newest load; `queue` counts the answers that are being
    made and the questions in line."""

    version: str
    model: ModelStatus
    queue: int
    memory: Memory
    knowledge_bases: list[KnowledgeBase]
    embedding_model: EmbeddingStatus


class InspectModel(BaseModel):
    """`model_path` is a folder of the server."""

    model_config = ConfigDict(protected_namespaces=())

    model_path: str
    model_type: str = ""
    backend: Literal["auto", "vllm", "transformers"] = "auto"


@dataclass(frozen=True)
class Inspection:
    """What a folder holds. `native` means that engines read it as it is; else it is converted once. `memory` is what
    serving it on `backend` takes, for 4,096 tokens of context, and `free` what there is for it, in bytes."""

    family: str
    kind: str
    architecture: str
    native: bool
    context_length: int | None
    backend: str
    memory: MemoryNeed
    free: int
    fits: bool


@dataclass(frozen=True)
class Menu:
    """The models on offer, the one in service, and the last lines that its engine wrote."""

    catalog: list[CatalogEntry]
    model: ModelStatus
    log_tail: list[str]


def router(models: ModelManager, knowledge: KnowledgeService, version: str) -> APIRouter:
    """`/api/status` and everything under `/api/models`."""
    routes = APIRouter(prefix="/api")

    @routes.get("/status", tags=["service"], summary="Version, model, queue, memory and knowledge bases")
    async def status(who: Who) -> Status:
        memory = psutil.virtual_memory()
        now = models.status
        bases, embedding = await seen_by(who, knowledge).list(), await knowledge.embedding_status()
        room = Memory(memory.total, memory.available)
        return Status(version, now, now.in_flight + now.waiting, room, bases, embedding)

    @routes.get("/models", tags=["models"], summary="The models on offer")
    async def menu(who: Who) -> Menu:
        """The engine's log is for admins: it may tell what others ask."""
        return Menu(list(CATALOG), models.status, await models.log_tail() if who.admin else [])

    @routes.post(
        "/models/inspect",
        dependencies=ADMINS_ONLY,
        tags=["models"],
        summary="What a folder holds, and whether it fits into memory",
    )
    async def inspect(body: InspectModel) -> Inspection:
        if not body.model_path.strip():
            raise InvalidRequest("model_path is empty: name a folder of the server.", "model_path")
        found, room = await models.inspect(body.model_path.strip(), body.model_type, body.backend)
        return Inspection(
            found.family, found.kind, found.architecture, found.native, found.context_length, room.backend, room.need,
            room.free, room.fits,
        )  # fmt: skip

    @routes.post(
        "/models/load",
        tags=["models"],
        dependencies=ADMINS_ONLY,
        summary="Load a model",
        response_model=ModelStatus,
        responses={200: {"content": _PROGRESS}},
    )
    async def load(body: LoadModel, stream: bool = False) -> Any:
        """Answers when the model is ready, or with the reason why it cannot be. With `stream` the answer is a
        `text/event-stream`: events `progress`, then one `ready` or `failed`, each with the status or error as JSON."""
        if not body.model_path.strip() and body.backend != "openai":
            raise InvalidRequest("model_path is empty: name a folder of the server or a hub id.", "model_path")
        spec = ModelSpec(body.model_path.strip(), body.model_type, body.backend)
        if not stream:
            return await _load(models, spec)

        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            await live.start(send, EVENTS)
            async with aclosing(_events(models, spec)) as events:
                async for event, value in events:
                    data = json.dumps(value, ensure_ascii=False)
                    await live.write(send, f"event: {event}\ndata: {data}\n\n".encode())
            await live.finish(send)

        return live.LiveResponse(work)

    @routes.post("/models/unload", dependencies=ADMINS_ONLY, tags=["models"], summary="Take the model out of service")
    async def unload() -> ModelStatus:
        await models.unload()
        return models.status

    return routes


async def _load(models: ModelManager, spec: ModelSpec) -> ModelStatus:
    """Load and wait; a client that leaves stops waiting, not the load. Raises Conflict when the load is given up."""
    try:
        return await models.load(spec)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise Conflict("The load was given up: another request took the model out of service.") from None


async def _events(models: ModelManager, spec: ModelSpec) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Each change of the status during the load, then how it ended."""
    load = asyncio.create_task(_load(models, spec))
    async with aclosing(models.changes()) as changes:
        following = asyncio.ensure_future(anext(changes))
        try:
            while not load.done():
                await asyncio.wait({load, following}, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    yield "progress", asdict(following.result())
                    following = asyncio.ensure_future(anext(changes))
        finally:
            following.cancel()
            load.cancel()  # without effect when it has ended; otherwise it stops waiting, and the load goes on
            await asyncio.wait({following, load})
    try:
        yield "ready", asdict(load.result())
    except QuartetError as error:
        yield "failed", error_shape(error)
    except Exception as error:  # noqa: BLE001  the status line is out already: the stream itself has to say it
        yield "failed", unexpected(error)
