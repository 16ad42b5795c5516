"""The embedding models that this app has open: the one in service and, during a change, the next. Makes no vectors.

The store says which they are. One that is no longer either is closed when the last who uses it is done.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest, ModelUnusable, QuartetError
from rag.model_name import BUNDLED, checked_source, model_label, model_name
from rag.types import EmbeddingStatus, ModelChange

if TYPE_CHECKING:
    from rag.embeddings import PassageEmbeddings
    from rag.store import ModelRecord, Store


@dataclass
class _Open:
    source: str
    embeddings: PassageEmbeddings
    users: int = 0

    def is_of(self, record: ModelRecord | None) -> bool:
        return record is not None and record.source == self.source and record.name in ("", self.embeddings.name)


class EmbeddingModels:
    """`load` makes the model of a source, which need not be loaded before it is asked; `lent` is closed elsewhere."""

    def __init__(
        self, store: Store, load: Callable[[str], PassageEmbeddings], lent: PassageEmbeddings | None = None
    ) -> None:
        self._store = store
        self._load = load
        self._lent = lent
        self._lock = threading.Lock()
        self._opened: list[_Open] = []
        self.now: ModelRecord | None = None
        self.next: ModelRecord | None = None
        self.refresh()

    def refresh(self) -> None:
        """Looks what the store says now."""
        self.now, self.next = self._store.models()
        self._close_unused()

    @property
    def changing(self) -> bool:
        """Whether another model is to come into service."""
        return self.next is not None and self.next.state != "failed"

    @contextlib.contextmanager
    def serving(self) -> Iterator[PassageEmbeddings]:
        """The model in service; stays open as long as it is used. Raises ModelUnusable when there is none, or when
        what it was loaded from is gone."""
        if self.now is None:
            why = self.next.error if self.next else ""
            raise ModelUnusable(why or "No embedding model is in service yet; try again when it is loaded.")
        with self.using(self.now) as embeddings:
            yield embeddings

    @contextlib.contextmanager
    def using(self, record: ModelRecord) -> Iterator[PassageEmbeddings]:
        """The model of a record; stays open as long as it is used."""
        found = self._taken(record)
        try:
            yield found.embeddings
        finally:
            with self._lock:
                found.users -= 1
            self._close_unused()

    def ask(self, source: str, name: str = "") -> None:
        """This one shall come into service; `name` where it is known already. Without a source it is whichever is
        there or coming, and at first the one that is built in."""
        if not (source or name) and (self.now or self.changing):
            return
        with contextlib.suppress(InvalidRequest):  # what is no model fails when it is loaded
            source = checked_source(source or BUNDLED)
        self._store.ask_for_model(source, name or model_name(source))
        self.refresh()

    def status(self) -> EmbeddingStatus:
        """What people are told of all this."""
        self.refresh()
        change = None
        if coming := self.next:
            left = max(0, coming.total - coming.done) / coming.rate if coming.rate else None
            change = ModelChange(
                model_label(coming.source), coming.state, coming.done, coming.total, round(coming.rate, 1),
                None if left is None else round(left, 1), coming.error,
            )  # fmt: skip
        if not (now := self.now):
            return EmbeddingStatus("", "", "", change)
        note = ""
        if gone := self._missing():
            note = f"{gone} Until then documents are found by their words alone."
        elif now.long:
            note = (
                f"{now.long} passages are longer than this model reads at once; each was read in parts. Read their "
                "files again to have them cut for it."
            )
        return EmbeddingStatus(model_label(now.source), now.name.rpartition("@")[2], note, change)

    def _missing(self) -> str:
        """Why the model in service cannot be used, or ""; looks only whether its files are there."""
        try:
            with self.serving():
                return ""
        except QuartetError as error:
            return error.message

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, []
        for one in opened:
            self._close(one)

    def _taken(self, record: ModelRecord) -> _Open:
        with self._lock:
            found = next((one for one in self._opened if one.is_of(record)), None)
            if found is None:
                found = _Open(record.source, self._load(record.source))
                if not found.is_of(record) and found.embeddings.name:
                    self._close(found)
                    raise ModelUnusable(
                        f"The embedding model {model_label(record.source)} is not there any more as the documents were "
                        "read with it: put it back, or change to another one."
                    )
                self._opened.append(found)
            found.users += 1
            return found

    def _close_unused(self) -> None:
        coming = self.next if self.changing else None
        with self._lock:
            unused = [
                one for one in self._opened if not one.users and not one.is_of(self.now) and not one.is_of(coming)
            ]
            self._opened = [one for one in self._opened if one not in unused]
        for one in unused:
            self._close(one)

    def _close(self, one: _Open) -> None:
        if one.embeddings is not self._lent:
            one.embeddings.close()
