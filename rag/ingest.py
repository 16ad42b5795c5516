"""The way of a file from uploaded to searchable, by threads that take the next one from the store. Knows no web.

Every step is written to the store before the next begins, so whatever was under way when the process ended goes on
when it is back. One bad file fails alone, with its reason.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backends.errors import Busy, EngineFailed, ModelUnusable, NotFound, QuartetError, StorageFull, StorageUnreachable
from rag.errors import UnreadableFile
from rag.scripts import reads
from rag.store import Job, NewPassage, Store
from rag.words import words

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from rag.data_folder import DataFolder
    from rag.embedding_models import EmbeddingModels
    from rag.embeddings import PassageEmbeddings

_log = logging.getLogger(__name__)

_PASSAGES_AT_FIRST = 4  # embedded, stored and reported together
_PASSAGES_AT_ONCE = 256
_REPORT_EVERY = 0.5  # seconds
_ATTEMPTS = 3  # for a file whose embedding process is lost
_LEASE = 30.0  # seconds that a file stays with a process that does not say it is alive
_LOOK_EVERY = 2.0  # seconds; another app may have stored a file, or have died over one


class _NotWanted(Exception):
    """The file was cancelled or deleted while it was read, or is another app's now."""


class Ingest:
    """`owner` is the name of this app's claims, which it renews. `changes` counts every step that was written to the
    store."""

    def __init__(
        self,
        store: Store,
        models: EmbeddingModels,
        folder: DataFolder,
        owner: str,
        passage_size: int,
        threads: int = 2,
    ) -> None:
        self._store = store
        self._models = models
        self._folder = folder
        self._owner = owner
        self._passage_size = passage_size
        self._wake = threading.Condition()
        self._stopping = False
        self._working: set[str] = set()  # the ids of files under way here
        self.changes = 0
        # Daemons: a document that takes a minute to read must not hold up the end of the process.
        self._threads = [threading.Thread(target=self._run, name=f"ingest-{n}", daemon=True) for n in range(threads)]
        self._threads.append(threading.Thread(target=self._keep_claims, name="ingest-claims", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def notify(self) -> None:
        """There may be a new file in the store."""
        with self._wake:
            self._wake.notify_all()

    def stop(self) -> None:
        """No further step is begun. What is under way stays unfinished in the store; the next start resumes it."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def join(self, timeout: float) -> None:
        """Waits for the threads to end, at most `timeout` seconds in all."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while job := self._next():
            try:
                self._work(job)
            except _NotWanted:
                _log.info("%s is not wanted any more", job.file_id)
            except (StorageUnreachable, Busy):
                _log.info("%s waits for the database", job.file_id)  # it says nothing about the file
            except ModelUnusable as error:
                if self._models.changing:  # the next one will read it
                    self._pause()
                else:
                    self._give_up(job, error)
            except Exception as error:  # noqa: BLE001  whatever it is, the other files must go on
                self._give_up(job, error)
            finally:
                self._release(job)

    def _next(self) -> Job | None:
        while True:
            job = self._claim()
            if job:
                return job
            with self._wake:
                if self._stopping:
                    return None
                self._wake.wait(_LOOK_EVERY)

    def _pause(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, _LOOK_EVERY)

    def _claim(self) -> Job | None:
        with self._wake:  # one at a time, and none after stop()
            if self._stopping:
                return None
            try:
                job = self._store.claim(self._owner, _LEASE)
            except QuartetError as error:
                _log.info("no file can be taken: %s", error)
                return None
            except Exception:  # noqa: BLE001  whatever it is, the thread must go on
                _log.exception("no file can be taken")
                return None
            if job:
                self._working.add(job.file_id)
            return job

    def _release(self, job: Job) -> None:
        with self._wake:
            self._working.discard(job.file_id)
        try:
            self._store.release(self._owner, job.file_id)
        except Exception as error:  # noqa: BLE001  it is not renewed any more: the claim runs out by itself
            _log.info("%s stays claimed for a while: %s", job.file_id, error)

    def _keep_claims(self) -> None:
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, timeout=_LEASE / 3):
                    return
                working = list(self._working)
            try:
                self._folder.tidy()
                self._store.renew(self._owner, working, _LEASE)
            except QuartetError as error:
                _log.info("claims cannot be renewed: %s", error)
            except Exception:  # noqa: BLE001  whatever it is, the thread must go on
                _log.exception("claims cannot be renewed")

    def _work(self, job: Job) -> None:
        parsed = job.parsed
        for attempt in range(_ATTEMPTS):
            try:
                with self._models.serving() as model:
                    if not parsed:
                        self._parse(job, model)
                        parsed = True
                    self._embed(job, model)
                break
            except EngineFailed:
                if self._stopping:
                    return
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(1 + attempt)
        if self._stopping:
            return
        for file_id in self._store.finish(job.file_id):
            self._folder.remove(file_id)
        self.changes += 1

    def _parse(self, job: Job, model: PassageEmbeddings) -> None:
        from rag.loaders import load

        self._report_parsing(job, 0, 0)
        reported = time.monotonic()

        def progress(done: int, total: int | None) -> None:
            nonlocal reported
            if time.monotonic() - reported > _REPORT_EVERY:
                reported = time.monotonic()
                self._report_parsing(job, done, total or 0)

        with self._folder.reading(self._store, job.content) as file:
            try:
                documents = load(file, job.name, progress)
            except (UnreadableFile, FileNotFoundError):
                if file.exists():
                    raise
                # Deleted while it was read, most likely: then nobody hears of it.
                raise NotFound("The bytes of this file are not there any more; upload it again.") from None
        numbers = [page for document in documents if (page := document.metadata.get("page")) is not None]
        pages = max(numbers) if numbers else None
        notes = {note for document in documents if (note := document.metadata.get("note"))}
        with self._folder.scratch() as scratch:
            for passage in _passages(documents, model, self._passage_size):
                scratch.write(json.dumps(dataclasses.asdict(passage)) + "\n")
            if not scratch.tell():
                raise UnreadableFile(
                    "no_text", "No text was found in this file: upload one that has text, not pictures of it."
                )
            scratch.seek(0)
            new = (NewPassage(**json.loads(line)) for line in scratch)
            self._store.parsed(job.file_id, pages, new, " ".join(sorted(notes)))
        self.changes += 1

    def _report_parsing(self, job: Job, done: int, total: int) -> None:
        if not self._store.parsing(job.file_id, done / total if total else 0.0, total or None):
            raise _NotWanted  # which ends the reader
        self.changes += 1

    def _embed(self, job: Job, model: PassageEmbeddings) -> None:
        waiting = self._store.passages_without_vector(job.file_id)
        start, size, rate = 0, _PASSAGES_AT_FIRST, 0.0
        while start < len(waiting) and not self._stopping:
            ids = waiting[start : start + size]
            began = time.monotonic()
            rows = model.passage_vectors(self._store.passage_texts(ids))
            now = len(ids) / max(0.001, time.monotonic() - began)
            rate = now if not rate else 0.7 * rate + 0.3 * now
            wanted = self._store.add_vectors(job.file_id, ids, rows, model.name, rate)
            self.changes += 1
            if not wanted:  # cancelled, deleted or replaced, or another model is in service: the rest is for nobody
                self._models.refresh()
                return
            start += size
            # As many at once as this machine embeds between two reports.
            fitting = size * _REPORT_EVERY / max(0.001, time.monotonic() - began)
            size = max(1, min(_PASSAGES_AT_ONCE, 2 * size, round(fitting)))

    def _give_up(self, job: Job, error: Exception) -> None:
        if self._stopping:
            return
        reason: str
        if isinstance(error, UnreadableFile):
            reason, sentence = error.reason, error.message
        elif isinstance(error, QuartetError):
            reason = error.code if isinstance(error, StorageFull) else "internal"
            sentence = error.message
        else:
            _log.exception("%s could not be made searchable", job.file_id, exc_info=error)
            reason, sentence = "internal", "Something went wrong inside Quartet; the log says what. Upload it again."
        try:
            self._store.fail(job.file_id, reason, sentence)
        except Exception:  # noqa: BLE001
            # The disk is full, say: the file is tried again, and nothing is lost meanwhile.
            _log.exception("the failure of %s could not be written", job.file_id)
            time.sleep(5)
        self.changes += 1


def _passages(documents: list[Document], model: PassageEmbeddings, characters: int) -> Iterator[NewPassage]:
    """The passages of a file, one after the other: a large one has more of them than should be in memory at once.
    What was made into passages is taken out of `documents`."""
    from rag.splitter import split

    most, scripts = model.description.max_tokens, model.description.scripts
    documents.reverse()
    left = (documents.pop() for _ in range(len(documents)))
    for part in split(left, model.count_tokens, most, lambda text: reads(text, scripts), characters):
        heading = part.metadata.get("heading") or ""
        found = words(f"{heading}\n{part.page_content}")
        yield NewPassage(text=part.page_content, words=found, page=part.metadata.get("page"), heading=heading)
