"""The routes under `/api/embedding-model`. They translate; the work is KnowledgeService's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel

from api.visitor import ADMINS_ONLY
from rag.types import EmbeddingStatus

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService


class NextModel(BaseModel):
    """`model` is a folder of the server, a hub id, or the name of the one that is built in."""

    model: str


def router(knowledge: KnowledgeService) -> APIRouter:
    """`GET` and `POST /api/embedding-model`."""
    routes = APIRouter(prefix="/api/embedding-model", tags=["knowledge bases"])

    @routes.get("", summary="The embedding model, and how far the change to another one is")
    async def embedding_model() -> EmbeddingStatus:
        return await knowledge.embedding_status()

    @routes.post("", dependencies=ADMINS_ONLY, status_code=202, summary="Change the embedding model")
    async def change(body: NextModel) -> EmbeddingStatus:
        """Searches go on with the one in service until all passages have vectors of the other; then that one is in
        service. When it fails, `change` says why and nothing else is different. Naming the one in service gives up a
        change."""
        return await knowledge.change_embedding_model(body.model)

    return routes
