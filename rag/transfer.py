"""Takes a knowledge base out of a store into an archive, and from an archive into a store. Blocks; knows no model.

Either the whole base arrives, in one transaction, or nothing does.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.errors import Conflict, InvalidRequest
from rag.archive import Archive, ArchivedFile, ArchivedPassage, ArchiveWriter
from rag.errors import ModelChanged
from rag.model_name import model_name
from rag.names import base_name
from rag.owners import base_key, key_of, name_of
from rag.sql_store import SqlStore
from rag.store import NewFile


@dataclass(frozen=True)
class Transferred:
    """What went over. `waiting` counts files that have to be read (again) before they can be found."""

    name: str
    files: int
    passages: int
    waiting: int


def export_base(store: SqlStore, data_dir: Path, key: str, target: Path) -> Transferred:
    """An archive does not tell whose the base was. Raises NotFound for an unknown base, Conflict when `target` is there
    already, or another embedding model came into service meanwhile."""
    key, passages, waiting = base_key(key), 0, 0
    name = name_of(key)
    if target.exists():
        raise Conflict(f"{target} is there already; choose another file, or move it away.")
    records, model = store.files(key), store.embedding_model() or ""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        unfinished = Path(folder) / "archive"
        writer = ArchiveWriter(unfinished, name, model, Path(folder))
        for record in records:
            content = data_dir / "files" / record.id
            if store.keeps_bytes:
                content = Path(folder) / record.id
                store.read_content(record.id, content)
            try:
                digest, found, rows = store.whole_file(record.id, model)
            except ModelChanged:
                raise Conflict("Another embedding model came into service just now: export again.") from None
            if record.state != "searchable":
                found, rows = [], rows[:0]
            passages += len(found)
            waiting += record.state != "searchable"
            file = ArchivedFile(
                record.name, record.size, digest, record.pages,
                record.error if found else "", record.created_at, len(found),
            )  # fmt: skip
            writer.add(file, content, [ArchivedPassage(*passage) for passage in found], rows)
            if store.keeps_bytes:
                content.unlink()
        writer.close()
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        try:
            os.link(unfinished, target)  # the name appears with the whole archive, and never over another file
        except FileExistsError:
            raise Conflict(f"{target} is there already; choose another file, or move it away.") from None
    return Transferred(name, len(records), passages, waiting)


def import_base(
    store: SqlStore, data_dir: Path, source: Path, name: str = "", model: str = "", owner: str = ""
) -> Transferred:
    """`owner` "" makes it one that all share. `model` is what the embedding model of a store that has none yet is
    loaded from. Vectors of another model than the store's are left out: these files are read again by the next start.
    Raises InvalidRequest for an archive that is damaged or hostile, Conflict when there is a base of this name."""
    if not source.is_file():
        raise InvalidRequest(f"There is no file {source}; name an archive that `export` has written.")
    files = data_dir / "files"
    files.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="import-") as folder:
        archive = Archive(source, Path(folder))
        name = base_name(name) if name else archive.name
        if store.embedding_model() is None:
            called = model_name(model) if model else archive.embedding_model
            store.ask_for_model(model or called.partition("@")[0], called)
        ids = [secrets.token_hex(16) for _ in archive.files]
        kept: list[Path] = []
        try:
            if not store.keeps_bytes:
                for number, file_id in enumerate(ids):
                    kept.append(archive.content(number).rename(files / file_id))
                _sync(kept, files)
            place: Callable[[int], Path] = archive.content if store.keeps_bytes else lambda n: files / ids[n]
            whole = (
                (
                    NewFile(file_id, file.name, file.size, file.sha256), file.pages, file.error, file.created_at,
                    place(number), [(p.text, p.words, p.page, p.heading) for p in passages], rows,
                )
                for number, (file_id, file, (passages, rows)) in enumerate(
                    zip(ids, archive.files, archive.passages(), strict=True)
                )
            )  # fmt: skip
            fits = store.add_whole_base(key_of(owner, name), whole, archive.embedding_model)
        except BaseException:
            for path in kept:
                path.unlink(missing_ok=True)
            raise
    ready = [file.passages if fits else 0 for file in archive.files]
    return Transferred(name, len(ready), sum(ready), sum(1 for count in ready if not count))


def _sync(paths: list[Path], folder: Path) -> None:
    for path in [*paths, folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
