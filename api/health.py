"""`GET /health`, the one address that is open to everybody; names no model, path or host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter

if TYPE_CHECKING:
    from backends.models import ModelManager

_PROBLEMS = {
    "loading": "The model is still loading.",
    "restarting": "The engine was lost and is being restarted.",
    "lost": "The engine failed again and again and is not restarted any more; GET /api/status says why.",
    "failed": "The model could not be loaded; GET /api/status says why.",
}


@dataclass(frozen=True)
class Health:
    """`live`: the service answers. `ready`: it can take questions. `problems`: one sentence for each thing wrong."""

    live: bool
    ready: bool
    problems: list[str]


def router(models: ModelManager) -> APIRouter:
    """The route `GET /health`."""
    routes = APIRouter(tags=["service"])

    @routes.get("/health", summary="Is the service up and ready")
    async def health() -> Health:
        status = models.status
        lost = status.state == "failed" and status.name and not status.serving
        problem = _PROBLEMS.get("lost" if lost else status.state)
        # Without a model Quartet still answers from documents, so only a model that should be there makes it not ready.
        ready = problem is None or status.serving
        return Health(live=True, ready=ready, problems=[problem] if problem else [])

    return routes
