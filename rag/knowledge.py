"""Knowledge bases as the page and the API see them: files in, states, search. Async outside, threads inside.

What it promises about names, limits and bytes holds for every store; the work on a file is rag.ingest's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import Busy, InvalidRequest, QuartetError, StorageFull, TooLarge
from rag.data_folder import DataFolder, copy_durably
from rag.model_name import BUNDLED, checked_source, model_label
from rag.names import file_label
from rag.owners import base_key
from rag.types import EmbeddingStatus, FileRecord, Hit, KnowledgeBase, Neighbours, Tuning

if TYPE_CHECKING:
    from rag.embedding_models import EmbeddingModels
    from rag.embeddings import PassageEmbeddings, Vectors
    from rag.ingest import Ingest
    from rag.langchain import KnowledgeBaseRetriever, KnowledgeBaseStore
    from rag.model_change import ModelChange
    from rag.retriever import Retriever
    from rag.store import Store

# Named here, because inside the class `list` is the method.
Bases = list[KnowledgeBase]
Files = list[FileRecord]
Hits = list[Hit]

_MIB = 1024 * 1024
_TEXTS_AT_ONCE = 32  # of a call for vectors; between two such lots it can be given up
_SEARCHERS = 32  # threads: the questions that wait together are embedded together, in a fraction of the time


@dataclass(frozen=True)
class Limits:
    """`file_size` and `free_space` (what must stay free on the disk) in bytes; `waiting` in files."""

    file_size: int = 200 * _MIB
    free_space: int = 512 * _MIB
    waiting: int = 2_000


class KnowledgeService:
    """All knowledge bases of one data folder. They are named by their keys (rag.owners); calls that name one raise
    NotFound when there is none."""

    def __init__(
        self,
        data_dir: Path,
        embedding_model: str = "",
        limits: Limits | None = None,
        embeddings: PassageEmbeddings | None = None,
        database_url: str = "",
        reranker_model: str = "",
        tuning: Tuning | None = None,
    ) -> None:
        """`embedding_model` is a folder or hub id, "" the bundled one; `embeddings` is used in its place when given,
        and left open by close(). `database_url` names a PostgreSQL that other apps may share; "" keeps everything in
        the data folder. `reranker_model` is a folder or hub id of a cross-encoder, "" for none."""
        self._data_dir = data_dir
        self._database_url = database_url
        self._embeddings = embeddings
        self._embedding_model = embedding_model
        self._reranker_model = reranker_model
        self._limits = limits or Limits()
        self.tuning = tuning or Tuning()
        self._parts: _Parts | None = None

    async def start(self) -> None:
        """Opens the data folder and resumes unfinished files; waits for no model. Raises Conflict when another process
        has the folder, and QuartetError when the database is damaged or cannot be used."""
        self._parts = await asyncio.to_thread(self._open)
        self._parts.ingest.start()
        self._parts.change.start()
        if any(base.passages for base in await self.list()):
            # There is something to ask for: the model loads meanwhile, so that the first question need not wait for it.
            threading.Thread(target=_warm_up, args=(self._parts.models,), daemon=True).start()

    async def close(self) -> None:
        """Unfinished files are resumed by the next start."""
        parts, self._parts = self._parts, None
        if parts:
            await asyncio.to_thread(self._close, parts)

    async def list(self) -> Bases:
        return await asyncio.to_thread(self._open_parts.store.bases)

    async def has(self, name: str) -> bool:
        return await asyncio.to_thread(self._open_parts.store.has_base, base_key(name))

    async def create(self, name: str) -> KnowledgeBase:
        """Raises Conflict when the name is taken, InvalidRequest when it cannot be a name."""
        return await asyncio.to_thread(self._open_parts.store.create_base, base_key(name))

    async def delete(self, name: str) -> None:
        """Its files, passages and vectors are gone from the disk when this returns."""
        await asyncio.to_thread(self._delete_base, base_key(name))

    async def add_file(self, base: str, name: str, source: Path) -> FileRecord:
        """Copies the bytes of `source` and queues them; it is safe on disk when this returns. The same content again
        gives the record that is there, which may have another name; what was there under this name is gone as soon as
        that one is searchable.
        Raises TooLarge, StorageFull, Busy (too many files are waiting)."""
        record = await asyncio.to_thread(self._add_file, base_key(base), file_label(name), source)
        self._open_parts.ingest.notify()
        return record

    async def files(self, base: str) -> Files:
        return await asyncio.to_thread(self._open_parts.store.files, base_key(base))

    async def file(self, base: str, file_id: str) -> FileRecord:
        return await asyncio.to_thread(self._open_parts.store.file, base_key(base), file_id)

    async def delete_file(self, base: str, file_id: str) -> None:
        await asyncio.to_thread(self._delete_file, base_key(base), file_id)

    async def cancel(self, base: str, file_id: str) -> FileRecord:
        """Gives up a file that is not searchable yet: it fails as cancelled, and the same content uploaded again starts
        anew. A finished file stays as it is, and one that is read again as it was."""
        return await asyncio.to_thread(self._cancel, base_key(base), file_id)

    async def reindex(self, base: str, file_id: str) -> FileRecord:
        """Reads a file again from its bytes, with the readers and the embedding model of now. What was read of it
        before is found until the new reading takes its place; a reading that fails leaves it so."""
        parts, reading = self._open_parts, secrets.token_hex(16)
        record = await asyncio.to_thread(parts.store.reindex, base_key(base), file_id, reading)
        parts.ingest.notify()
        return record

    async def content(self, base: str, file_id: str) -> tuple[Path, str]:
        """Where the bytes of a file are, and its name. From a shared database they come as a copy: say `sent` after
        use."""
        record = await self.file(base, file_id)
        parts = self._open_parts
        return await asyncio.to_thread(parts.folder.download, parts.store, record.id), record.name

    async def sent(self, path: Path) -> None:
        """What `content` gave is not needed any more."""
        await asyncio.to_thread(self._open_parts.folder.sent, path)

    async def wait(self, base: str, ids: Sequence[str]) -> Files:
        """Returns when each file is searchable or failed. One that was deleted or replaced meanwhile is left out."""
        ingest = self._open_parts.ingest
        while True:
            seen = ingest.changes
            known = {record.id: record for record in await self.files(base)}
            records = [known[i] for i in ids if i in known]
            if all(record.finished for record in records):
                return records
            for _ in range(10):  # half a second at most: a deleted file makes no change
                await asyncio.sleep(0.05)
                if ingest.changes != seen:
                    break

    async def search(self, base: str, query: str, top_k: int = 4) -> Hits:
        """At most `top_k` passages, best first, with scores 0..1. Raises InvalidRequest for a question without text."""
        if not query.strip():
            raise InvalidRequest("The question is empty; type what you are looking for.")
        if not 1 <= top_k <= 100:
            raise InvalidRequest(f"top_k must be between 1 and 100; it was {top_k}.")
        parts, loop = self._open_parts, asyncio.get_running_loop()
        return await loop.run_in_executor(parts.searchers, parts.retriever.search, base_key(base), query, top_k)

    async def neighbours(self, hits: Sequence[Hit]) -> dict[str, Neighbours]:
        """What stands before and after each hit, by its passage id; not of those that are gone meanwhile."""
        ids = [int(hit.passage_id) for hit in hits]
        found = await asyncio.to_thread(self._open_parts.store.neighbours, ids) if ids else {}
        return {str(passage): neighbours for passage, neighbours in found.items()}

    @property
    def embedding_model(self) -> str:
        """What the embedding model in service is called: its hub id, or the name of its folder."""
        now = self._open_parts.models.now
        return model_label(now.source) if now else ""

    async def embedding_status(self) -> EmbeddingStatus:
        """The embedding model in service, and how far the change to another one is."""
        parts = self._open_parts
        status = await asyncio.to_thread(parts.models.status)
        if parts.retriever.reranker and parts.retriever.reranker.trouble:
            status = replace(status, note=f"{status.note} {parts.retriever.reranker.trouble}".strip())
        return status

    async def change_embedding_model(self, model: str) -> EmbeddingStatus:
        """Begins the change to a folder of this machine, a hub id, or the one that is built in; searches go on with
        the one in service until it is done. Naming that one gives up a change. Raises InvalidRequest for what is none
        of these."""
        parts = self._open_parts
        await asyncio.to_thread(lambda: parts.models.ask(checked_source(model)))
        parts.change.notify()
        return await self.embedding_status()

    def load_model(self, source: str) -> PassageEmbeddings:
        """The embedding model of a source; a subclass may know others."""
        from rag.embeddings import WorkerEmbeddings

        if self._embeddings and source == (self._embedding_model or BUNDLED):
            return self._embeddings
        return WorkerEmbeddings(source, self._data_dir / "embedding.log")

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """One normalised float32 row for each text, and how many tokens they have together.

        Raises InvalidRequest for a text that the embedding model cannot read whole. Whoever stops waiting stops it.
        """
        import numpy as np

        rows, tokens = [], 0
        with self._open_parts.models.serving() as embeddings:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                part = texts[start : start + _TEXTS_AT_ONCE]
                counts = await asyncio.to_thread(embeddings.count_tokens, part)
                longest = (await asyncio.to_thread(lambda: embeddings.description)).max_tokens
                for number, count in enumerate(counts, start):
                    if count > longest:
                        raise InvalidRequest(
                            f"input[{number}] has {count} tokens, and the embedding model reads {longest}: split it.",
                            "input",
                        )
                rows.append(await asyncio.to_thread(embeddings.passage_vectors, part))
                tokens += sum(counts)
        return np.concatenate(rows), tokens

    def vector_store(self, base: str) -> KnowledgeBaseStore:
        """The knowledge base as LangChain's VectorStore, to search in. Its methods block."""
        from rag.langchain import KnowledgeBaseStore

        parts = self._open_parts
        return KnowledgeBaseStore(base_key(base), parts.retriever, parts.models)

    def retriever(self, base: str, top_k: int = 4) -> KnowledgeBaseRetriever:
        """The knowledge base as LangChain's BaseRetriever; passages below the threshold are left out."""
        from rag.langchain import KnowledgeBaseRetriever

        find = self._open_parts.retriever.search
        return KnowledgeBaseRetriever(base=base_key(base), find=find, top_k=top_k, threshold=self.tuning.threshold)

    # ---- inside

    @property
    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise Busy("The knowledge bases are not open yet; try again in a moment.", retry_after=1)
        return self._parts

    def _open(self) -> _Parts:
        # Imported with the first start: they bring SQLAlchemy, numpy and LangChain with them.
        from rag.embedding_models import EmbeddingModels
        from rag.ingest import Ingest
        from rag.model_change import ModelChange
        from rag.reranker import Reranker
        from rag.retriever import Retriever
        from rag.stores import open_store

        folder = DataFolder(self._data_dir)
        try:
            store: Store = open_store(self._data_dir, self._database_url)
            folder.sweep(store)
        except BaseException:
            folder.close()
            raise
        models = EmbeddingModels(store, self.load_model, self._embeddings)
        models.ask(self._embedding_model, self._embeddings.name if self._embeddings else "")
        owner = secrets.token_hex(16)
        ingest = Ingest(store, models, folder, owner, self.tuning.passage_size)
        reranker = Reranker(self._reranker_model, self._data_dir / "reranker.log") if self._reranker_model else None
        retriever = Retriever(store, models, reranker)
        searchers = ThreadPoolExecutor(_SEARCHERS, "search")
        return _Parts(folder, store, models, ingest, ModelChange(store, models, owner), retriever, searchers)

    def _close(self, parts: _Parts) -> None:
        parts.ingest.stop()
        parts.change.stop()
        parts.models.close()
        if parts.retriever.reranker:
            parts.retriever.reranker.close()
        parts.searchers.shutdown(cancel_futures=True)
        parts.ingest.join(timeout=5)
        parts.change.join(timeout=5)
        parts.store.close()
        parts.folder.close()

    def _add_file(self, base: str, name: str, source: Path) -> FileRecord:
        from rag.store import NewFile

        store = self._open_parts.store
        size = source.stat().st_size
        if size > self._limits.file_size:
            raise TooLarge(
                f"“{name}” has {size / _MIB:.0f} MiB; a file may have {self._limits.file_size / _MIB:.0f} MiB. "
                "Split it, or raise the limit."
            )
        folder = self._open_parts.folder
        folder.check_room(size, self._limits.free_space)
        if store.waiting() >= self._limits.waiting:
            raise Busy(f"{self._limits.waiting} files are waiting already; upload more when some are done.", 60)
        store.files(base)  # an unknown base is told before anything is copied
        file_id = secrets.token_hex(16)
        path = folder.place(file_id)
        try:
            size, digest = copy_durably(source, path)
            record, gone = store.add_file(base, NewFile(file_id, name, size, digest), path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageFull(
                f"“{name}” could not be stored ({os.strerror(error.errno or 0)}); free some space."
            ) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if store.keeps_bytes:
            path.unlink()
        elif record.id != file_id:
            path.replace(folder.place(record.id))  # the same bytes, but for those that were lost or damaged there
        for old in gone:
            folder.remove(old)
        return record

    def _delete_file(self, base: str, file_id: str) -> None:
        self._open_parts.store.delete_file(base, file_id)
        self._open_parts.folder.remove(file_id)

    def _cancel(self, base: str, file_id: str) -> FileRecord:
        store = self._open_parts.store
        store.file(base, file_id)  # one of another base is not found
        store.fail(file_id, "cancelled", "It was cancelled; upload it again to have it read.")
        return store.file(base, file_id)

    def _delete_base(self, base: str) -> None:
        for file_id in self._open_parts.store.delete_base(base):
            self._open_parts.folder.remove(file_id)


@dataclass(frozen=True)
class _Parts:
    folder: DataFolder
    store: Store
    models: EmbeddingModels
    ingest: Ingest
    change: ModelChange
    retriever: Retriever
    searchers: ThreadPoolExecutor


def _warm_up(models: EmbeddingModels) -> None:
    # What is wrong with it is told to the one who searches or uploads.
    with contextlib.suppress(QuartetError), models.serving() as model:
        _ = model.description
