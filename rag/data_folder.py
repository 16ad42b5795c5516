"""The data folder: the lock that keeps a second app out, and the bytes of files under random ids. Knows no state.

Where a shared database keeps the bytes, what lies here is only copies, for as long as somebody reads them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from backends.errors import Conflict, StorageFull

if TYPE_CHECKING:
    from rag.store import Store

_MIB = 1024 * 1024
_COPY = "download-"
_DOWNLOAD = 600.0  # seconds that the copy of a file for a download is kept at most


class DataFolder:
    """One app's folder, locked until close(). Raises Conflict when another process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = path / "files"
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(path)

    def close(self) -> None:
        self._lock.close()

    def sweep(self, store: Store) -> None:
        """A crash between the bytes and their record leaves bytes that are nobody's. Those of an embedded store that is
        out of use while the documents are in a shared database stay: somebody may go back to it."""
        spared = store.keeps_bytes and (self.path / "quartet.db").exists()
        known = set() if store.keeps_bytes else store.file_ids()
        for file in self._files.iterdir():
            is_copy = "-" in file.name
            if is_copy or not (spared or file.name in known):
                file.unlink()

    def place(self, file_id: str) -> Path:
        """Where the bytes of a file are, or are to be."""
        return self._files / file_id

    def remove(self, file_id: str) -> None:
        self.place(file_id).unlink(missing_ok=True)

    def check_room(self, size: int, free_space: int) -> None:
        """Raises StorageFull unless `free_space` bytes stay free when `size` more have come."""
        free = shutil.disk_usage(self._files).free
        if free - size < free_space:
            raise StorageFull(
                f"The disk has {free // _MIB} MiB left and {free_space // _MIB} MiB must stay free; "
                "free some space and upload again."
            )

    @contextlib.contextmanager
    def reading(self, store: Store, file_id: str) -> Iterator[Path]:
        """The bytes of a file; a copy of them is gone at the end."""
        if not store.keeps_bytes:
            yield self.place(file_id)
            return
        copy = self._files / f"{file_id}-{secrets.token_hex(8)}"
        try:
            store.read_content(file_id, copy)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def download(self, store: Store, file_id: str) -> Path:
        """The bytes of a file, to be sent; `sent` and, when that is never said, `tidy` take a copy of them away."""
        if not store.keeps_bytes:
            return self.place(file_id)
        copy = self._files / f"{_COPY}{secrets.token_hex(16)}"
        store.read_content(file_id, copy)
        return copy

    def sent(self, path: Path) -> None:
        """What `download` gave is not needed any more."""
        if path.name.startswith(_COPY):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[IO[str]]:
        """A file without a name, to be written and read again; gone at the end, however this process ends. Raises
        StorageFull when the disk has no room for it."""
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._files) as file:
                yield file
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StorageFull("The disk has no room for the documents; free some space and try again.") from error

    def tidy(self) -> None:
        """What somebody once asked for must not stay here when the file is deleted at another app."""
        for copy in self._files.glob(f"{_COPY}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - copy.stat().st_mtime > _DOWNLOAD:
                    copy.unlink()


def _lock(folder: Path) -> IO[bytes]:
    """Kept as long as the process lives; the system lets go of it however that ends."""
    lock = (folder / "lock").open("wb")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Conflict(
            f"Another Quartet is using the folder {folder}. Stop it, or start this one with another --data-dir."
        ) from None
    return lock


def copy_durably(source: Path, target: Path) -> tuple[int, str]:
    """Copies and makes sure of it. Returns the size in bytes and the SHA-256 in hex."""
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(_MIB):
            digest.update(block)
            size += write.write(block)
        write.flush()
        os.fsync(write.fileno())
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size, digest.hexdigest()
