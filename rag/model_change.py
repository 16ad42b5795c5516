"""The change to another embedding model: its vectors are made beside those in service, then it is put into their place.

A thread that goes on where the last one was stopped. Whatever fails leaves the model in service where it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.documents import Document

from backends.errors import Busy, EngineFailed, ModelUnusable, QuartetError, StorageUnreachable
from rag.scripts import reads
from rag.splitter import split

if TYPE_CHECKING:
    from rag.embedding_models import EmbeddingModels
    from rag.embeddings import PassageEmbeddings
    from rag.store import ModelRecord, Store, Vectors

_log = logging.getLogger(__name__)

_AT_FIRST, _AT_ONCE = 4, 256  # passages embedded and stored together
_STORE_EVERY = 1.0  # seconds
_CLEARED = 1_000  # vectors deleted in one transaction
_LEASE = 30.0  # seconds that the change stays with a process that does not say it is alive
_LOOK_EVERY = 2.0  # seconds; another app may have been asked, or have died
_ATTEMPTS = 3  # to go on with a model whose process is lost


class ModelChange:
    """`owner` is the name under which the claims of this app are renewed."""

    def __init__(self, store: Store, models: EmbeddingModels, owner: str) -> None:
        self._store = store
        self._models = models
        self._owner = owner
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model-change", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Another model may have been asked for."""
        with self._wake:
            self._wake.notify_all()

    def stop(self) -> None:
        """No further step is begun; the next start goes on."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            try:
                worked = self._step()
            except QuartetError as error:
                _log.info("the change of the embedding model waits: %s", error)
                worked = False
            except Exception:  # noqa: BLE001  whatever it is, the thread must go on
                _log.exception("the change of the embedding model is tried again")
                worked = False
            with self._wake:
                if not worked and not self._stopping:
                    self._wake.wait(_LOOK_EVERY)

    def _step(self) -> bool:
        """Whether there was something to do."""
        self._models.refresh()
        if self._store.clear_unused(_CLEARED):
            return True
        record = self._store.claim_change(self._owner, _LEASE)
        if record is None:
            self._follow()
            return False
        try:
            self._change(record)
        except (StorageUnreachable, Busy):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the model in service stays
            self._give_up(error)
        finally:
            self._store.release_change(self._owner)
            self._models.refresh()
        return True

    def _follow(self) -> None:
        """Another app makes the change: its model is loaded here too, so that no question waits for it afterwards."""
        coming = self._models.next
        if coming is not None and coming.state == "building":
            try:
                with self._models.using(coming) as model:
                    _ = model.description
            except (EngineFailed, ModelUnusable) as error:
                _log.warning("the next embedding model is not usable here: %s", error)

    def _change(self, record: ModelRecord) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                with self._models.using(record) as model:
                    _ = model.description
                    if self._store.begin_change(self._owner, model.name):
                        self._build(model)
                return
            except EngineFailed:
                if self._stopping:
                    return
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(1 + attempt)

    def _build(self, model: PassageEmbeddings) -> None:
        after, size, rate = 0, _AT_FIRST, 0.0
        while not self._stopping:
            passages = self._store.passages_for_next(after, size)
            began = time.monotonic()
            rows, long = passage_rows(model, [text for _, text in passages])
            took = max(0.001, time.monotonic() - began)
            if passages:
                now = len(passages) / took
                rate = now if not rate else 0.8 * rate + 0.2 * now
            # Also without rows: it tells whether the change is still this app's.
            if not self._store.add_next_vectors(self._owner, [i for i, _ in passages], rows, rate, long):
                return
            if passages:
                after = passages[-1][0]
                size = max(1, min(_AT_ONCE, 2 * size, round(size * _STORE_EVERY / took)))
                continue
            self._store.prepare_swap()
            if self._store.swap(self._owner):
                self._models.refresh()
                return
            after = 0  # what was uploaded meanwhile

    def _give_up(self, error: Exception) -> None:
        if self._stopping:
            return
        if isinstance(error, QuartetError):
            sentence = error.message
        else:
            _log.exception("the embedding model was not changed", exc_info=error)
            sentence = "Something went wrong inside Quartet; the log says what."
        self._store.fail_change(self._owner, sentence)


def passage_rows(model: PassageEmbeddings, texts: Sequence[str]) -> tuple[Vectors, int]:
    """One normalised row for each text, and how many of them the model does not read whole: their row is the mean of
    those of their parts, so that nothing of them is lost. Raises ModelUnusable for rows that are no numbers."""
    most, scripts = model.description.max_tokens, model.description.scripts
    if not texts:
        return np.empty((0, model.description.dimension), np.float32), 0
    counts = model.count_tokens(texts)
    parts: list[str] = []
    owners: list[int] = []
    long = 0
    for at, (text, count) in enumerate(zip(texts, counts, strict=True)):
        whole = count <= most or not reads(text, scripts)
        own = [text] if whole else [part.page_content for part in split([Document(text)], model.count_tokens, most)]
        parts += own
        owners += [at] * len(own)
        long += not whole
    made = model.passage_vectors(parts)
    rows = np.zeros((len(texts), made.shape[1]), np.float32)
    np.add.at(rows, owners, made)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if not np.isfinite(rows).all():
        raise ModelUnusable("The embedding model makes vectors that are no numbers; its weights may be damaged.")
    return rows, long
