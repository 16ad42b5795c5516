"""What Prometheus may ask for: `GET /metrics`, counted by services that watch themselves at work. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Scope

from api.visitor import ADMINS_ONLY
from backends.models import ModelManager
from rag.chain import ChatService
from rag.knowledge import KnowledgeService
from rag.types import AnswerDelta, ChatRequest, Hit

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "quartet_requests", "Requests that are over.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "quartet_request_seconds", "Seconds of a request, its stream included.", ("route",), buckets=_LONG,
            registry=registry,
        )  # fmt: skip
        self.answers = Counter(
            "quartet_answers", "Answers that are over, by how they ended.", ("outcome",), registry=registry
        )
        self.tokens = Counter("quartet_tokens", "Tokens read and made by models.", ("kind",), registry=registry)
        self.first_token = Histogram(
            "quartet_first_token_seconds", "Seconds from a question to the first word of its answer.", buckets=_LONG,
            registry=registry,
        )  # fmt: skip
        self.speed = Histogram(
            "quartet_tokens_per_second", "Speed of an answer after its first word.", buckets=_SPEEDS, registry=registry
        )
        self.retrieval = Histogram(
            "quartet_retrieval_seconds", "Seconds of a search in a knowledge base.", buckets=_SHORT, registry=registry
        )
        self.hits = Counter(
            "quartet_hits", "Passages found, by whether they reached the threshold.", ("use",), registry=registry
        )
        self.in_flight = Gauge("quartet_answers_in_flight", "Answers being made now.", registry=registry)
        self.waiting = Gauge("quartet_questions_waiting", "Questions in line now.", registry=registry)
        self.ready = Gauge("quartet_model_ready", "1 while a language model is in service.", registry=registry)
        self.restarts = Counter("quartet_engine_restarts", "Times an engine ended by itself.", registry=registry)

    def request_over(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request over HTTP, by its route and never by its path: what a client types makes no new figure."""
        if scope["type"] == "http":
            route = getattr(scope.get("route"), "path", None) or "page"
            self.requests.labels(_method(scope), route, str(status)).inc()
            self.request_seconds.labels(route).observe(seconds)

    async def follow(self, models: ModelManager) -> None:
        """Keep the figures of the model in service true; runs until it is cancelled."""
        before = ""
        async with aclosing(models.changes()) as changes:
            async for status in changes:
                self.restarts.inc(status.state == "restarting" and before != "restarting")
                self.ready.set(status.serving)
                before = status.state

    def router(self, models: ModelManager) -> APIRouter:
        """The route `GET /metrics`."""
        routes = APIRouter(tags=["service"])

        @routes.get(
            "/metrics", dependencies=ADMINS_ONLY, summary="Figures for Prometheus", response_class=Response,
            responses={200: {"content": _TEXT}},
        )  # fmt: skip
        async def metrics() -> Response:
            self.in_flight.set(models.status.in_flight)
            self.waiting.set(models.status.waiting)
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        return routes


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


class MeteredKnowledge(KnowledgeService):
    """Measures its searches."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    async def search(self, *args: Any, **options: Any) -> list[Hit]:
        began = time.monotonic()
        hits = await super().search(*args, **options)
        self._metrics.retrieval.observe(time.monotonic() - began)
        for hit in hits:
            self._metrics.hits.labels("used" if hit.score >= self.tuning.threshold else "rejected").inc()
        return hits


class MeteredChat(ChatService):
    """Measures its answers."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    async def stream(self, request: ChatRequest) -> AsyncGenerator[AnswerDelta, None]:
        metrics, began, first, outcome = self._metrics, time.monotonic(), 0.0, "left"
        try:
            async with aclosing(super().stream(request)) as deltas:
                async for delta in deltas:
                    if delta.text and not first:
                        first = time.monotonic()
                        metrics.first_token.observe(first - began)
                    if delta.finish_reason:
                        outcome = delta.finish_reason
                    if delta.usage:
                        metrics.tokens.labels("prompt").inc(delta.usage.prompt_tokens)
                        metrics.tokens.labels("completion").inc(delta.usage.completion_tokens)
                        if first and delta.usage.completion_tokens > 1:
                            seconds = max(time.monotonic() - first, 1e-6)
                            metrics.speed.observe((delta.usage.completion_tokens - 1) / seconds)
                    yield delta
        except Exception:
            outcome = "failed"
            raise
        finally:
            metrics.answers.labels(outcome).inc()
