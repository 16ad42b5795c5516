"""The routes under `/api/knowledge-bases`. They translate; the work is KnowledgeService's."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from api.uploads import received
from api.visitor import Owner, Who, seen_by
from backends.errors import QuartetError, StorageFull
from rag.types import FileRecord, Hit, KnowledgeBase

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService

FILES_FIELD = "files"
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILES_FIELD],
                    "properties": {FILES_FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


class NewKnowledgeBase(BaseModel):
    """`name` may be any text in any language."""

    name: str


class Search(BaseModel):
    """`top_k` is how many passages at most."""

    query: str
    top_k: Annotated[int, Field(ge=1, le=100)] = 4


@dataclass(frozen=True)
class Hits:
    """What was found, best first."""

    hits: list[Hit]


def router(knowledge: KnowledgeService, upload_folder: Path) -> APIRouter:
    """All routes under `/api/knowledge-bases`."""
    routes = APIRouter(prefix="/api/knowledge-bases", tags=["knowledge bases"])

    # The key of the base that a path names: for whom it is not, it is not found, before anything else is looked at.
    async def seen(who: Who, name: str, owner: Owner = None) -> str:
        return await seen_by(who, knowledge).key(name, owner)

    async def changed(who: Who, name: str, owner: Owner = None) -> str:
        return await seen_by(who, knowledge).key(name, owner, change=True)

    @routes.get("", summary="All knowledge bases")
    async def list_bases(who: Who) -> list[KnowledgeBase]:
        """Mine, and those that all share; for admins everybody's."""
        return await seen_by(who, knowledge).list()

    @routes.post("", status_code=201, summary="Make a knowledge base")
    async def create_base(who: Who, body: NewKnowledgeBase, owner: Owner = None) -> KnowledgeBase:
        """A user's is the user's own; an admin's is shared by all, unless an owner is named."""
        return await seen_by(who, knowledge).create(body.name, owner)

    @routes.delete("/{name}", status_code=204, summary="Delete a knowledge base and all its files")
    async def delete_base(base: str = Depends(changed)) -> None:
        await knowledge.delete(base)

    @routes.get("/{name}/files", summary="The files of a knowledge base")
    async def list_files(base: str = Depends(seen)) -> list[FileRecord]:
        return await knowledge.files(base)

    @routes.post(
        "/{name}/files",
        summary="Add files",
        openapi_extra=UPLOAD_SCHEMA,
        responses={202: {"description": "Taken; they are being read", "model": list[FileRecord]}},
    )
    async def add_files(request: Request, wait: bool = False, base: str = Depends(changed)) -> Response:
        """Multipart field `files`, one or many. Answers 202 when the files are stored and queued, or with `wait` 200
        when each is searchable or failed. A file that could not even be stored comes back as failed, without an id; one
        in whose place a newer one of its name has come meanwhile, as failed for the reason `replaced`.

        A file of a name that is there takes the place of the old one when it is searchable. Content that is there
        already is not stored again: the answer has the record of that file, whose name may be another one, and a file
        that had the name of the one sent is gone as soon as that one is searchable."""
        async with received(request, FILES_FIELD, upload_folder) as uploads:
            records = [await _add(knowledge, base, upload.name, upload.path) for upload in uploads]
        if wait:
            stored = await knowledge.wait(base, [record.id for record in records if record.id])
            finished = {record.id: record for record in stored}
            records = [finished.get(record.id) or (_gone(record) if record.id else record) for record in records]
        return JSONResponse([asdict(record) for record in records], 200 if wait else 202)

    @routes.get("/{name}/files/{file_id}", summary="One file")
    async def get_file(file_id: str, base: str = Depends(seen)) -> FileRecord:
        return await knowledge.file(base, file_id)

    @routes.delete("/{name}/files/{file_id}", status_code=204, summary="Delete a file")
    async def delete_file(file_id: str, base: str = Depends(changed)) -> None:
        await knowledge.delete_file(base, file_id)

    @routes.post("/{name}/files/{file_id}/cancel", summary="Stop reading a file")
    async def cancel(file_id: str, base: str = Depends(changed)) -> FileRecord:
        """It fails as cancelled; one that is searchable or failed already stays as it is."""
        return await knowledge.cancel(base, file_id)

    @routes.post("/{name}/files/{file_id}/reindex", status_code=202, summary="Read a file again")
    async def reindex(file_id: str, wait: bool = False, base: str = Depends(changed)) -> FileRecord:
        """From its stored bytes. What was read of it before is found until the new reading takes its place, in one
        step. With `wait` it answers when that is done; a reading that fails is told in `error`."""
        record = await knowledge.reindex(base, file_id)
        if wait:
            for record in await knowledge.wait(base, [file_id]):
                return record
        return record

    @routes.get(
        "/{name}/files/{file_id}/content",
        summary="The original file",
        response_class=FileResponse,
        responses={200: {"content": _BYTES}},
    )
    async def content(file_id: str, base: str = Depends(seen)) -> Response:
        """Always a download, never shown: a document may be a page with a script in it."""
        path, label = await knowledge.content(base, file_id)
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
        return FileResponse(
            path, media_type="application/octet-stream", filename=label or "file", headers=headers,
            background=BackgroundTask(knowledge.sent, path),
        )  # fmt: skip

    @routes.post("/{name}/search", summary="Search")
    async def search(body: Search, base: str = Depends(seen)) -> Hits:
        """Scores are 0..1, higher is better."""
        return Hits(await knowledge.search(base, body.query, body.top_k))

    return routes


def _gone(record: FileRecord) -> FileRecord:
    sentence = "A newer file of this name took its place, or it was deleted, before it could be found."
    return replace(record, state="failed", reason="replaced", error=sentence)


async def _add(knowledge: KnowledgeService, base: str, name: str, path: Path) -> FileRecord:
    """Add one file; what is wrong with it becomes its record, so that one bad file does not lose the others."""
    try:
        return await knowledge.add_file(base, name, path)
    except StorageFull:
        raise
    except QuartetError as error:
        size = (await asyncio.to_thread(path.stat)).st_size
        reason = getattr(error, "reason", error.code)
        return FileRecord("", name, "failed", size, None, 0, 0.0, str(reason), error.message, "")
