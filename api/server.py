"""One FastAPI app of the HTTP routes, behind the middleware that guards them and the page mounted later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from accounts.accounts import Accounts
from api import accounts as people
from api import (
    article,
    article_socket,
    docs,
    embedding_model,
    errors,
    health,
    knowledge_bases,
    login,
    management,
    openai,
)
from api.attempts import Attempts
from api.auth import Access, Token
from api.headers import SecurityHeaders
from api.limits import MEBIBYTE, BodyLimits
from api.metrics import Metrics
from api.opening import HoldUntilOpen
from api.request_log import RequestLog

if TYPE_CHECKING:
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService


@dataclass(frozen=True)
class ApiSettings:
    """Without `token` and without accounts everybody who reaches the service may do everything. Sizes are in bytes, of
    a whole request."""

    version: str
    upload_folder: Path
    token: str = ""
    max_body: int = 2 * MEBIBYTE
    max_upload: int = 512 * MEBIBYTE


def create_app(
    accounts: Accounts,
    models: ModelManager,
    knowledge: KnowledgeService,
    chat: ChatService,
    settings: ApiSettings,
    opened: asyncio.Event,
    metrics: Metrics,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The app with all HTTP routes. Whatever is mounted on it later is behind the same guards.

    Until `opened` is set, requests that may need the services wait.
    """
    token = Token(settings.token)

    def limit_of(path: str) -> int:
        uploads = path == "/gradio_api/upload" or (path.startswith("/api/knowledge-bases/") and path.endswith("/files"))
        return settings.max_upload if uploads else settings.max_body

    app = FastAPI(
        title="Quartet",
        version=settings.version,
        responses=errors.DESCRIBED,
        lifespan=lifespan,
        openapi_url=None,  # the document and its page are in docs.py: theirs load scripts from another host
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestLog, metrics.request_over),
            Middleware(SecurityHeaders),
            Middleware(errors.CatchUnexpected),
            Middleware(BodyLimits, limit_of),  # outside: who is refused is still sending, and has to read why
            Middleware(Access, token, accounts, Attempts(100, 60)),
            Middleware(HoldUntilOpen, opened),
            # Allows nobody. It is here because Gradio brings an open CORS policy of its own unless it finds one.
            Middleware(CORSMiddleware),
        ],
    )
    errors.install(app)
    app.include_router(health.router(models))
    app.include_router(metrics.router(models))
    app.include_router(login.router(token, accounts, Attempts(10, 300)))
    app.include_router(article.router(models, knowledge, chat))
    app.include_router(openai.router(models, knowledge, chat))
    app.include_router(article_socket.router(models, knowledge, chat))
    app.include_router(management.router(models, knowledge, settings.version))
    app.include_router(knowledge_bases.router(knowledge, settings.upload_folder))
    app.include_router(embedding_model.router(knowledge))
    app.include_router(people.router(accounts, knowledge))
    app.include_router(docs.router(app))
    app.include_router(_rest_of_api(app))
    # FastAPI puts a router together when the first request looks at it, on the event loop: a sixth of a second for all.
    deque(iter_route_contexts(app.routes), maxlen=0)
    return app


def _rest_of_api(app: FastAPI) -> APIRouter:
    """What is left under /api and /v1 gets our 404 or 405, not the page's."""
    routes = APIRouter(include_in_schema=False)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

    @routes.api_route("/api", methods=methods)
    @routes.api_route("/api/{rest:path}", methods=methods)
    @routes.api_route("/v1", methods=methods)
    @routes.api_route("/v1/{rest:path}", methods=methods)
    async def nothing(request: Request) -> Response:
        known = any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.routes)
        raise HTTPException(405 if known else 404)

    return routes
