"""The archive in which a knowledge base travels between stores: a zip file, written and read. Knows no store.

`manifest.json` names the files and the embedding model and has a SHA-256 of every other member: `contents/N` (the
bytes of file N), `passages.jsonl` (one passage a line) and `vectors.npy` (one float32 row for each line, no pickle).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from backends.errors import InvalidRequest, StorageFull
from rag.names import base_name, file_label
from rag.store import Vectors

FORMAT = 1
_BLOCK = 1024 * 1024
_LISTED = 64 * _BLOCK  # the manifest, in bytes
_TIGHTEST = 1_100  # times its size; deflate cannot pack tighter (1,032), and a log of one line over and over is near
_ROOM = 512 * _BLOCK  # what must stay free on the disk
_PASSAGES, _VECTORS, _MANIFEST = "passages.jsonl", "vectors.npy", "manifest.json"


@dataclass(frozen=True)
class ArchivedFile:
    """A file of the base. `passages` counts its lines in the archive: 0 for one that was not searchable."""

    name: str
    size: int
    sha256: str
    pages: int | None
    error: str
    created_at: str
    passages: int


@dataclass(frozen=True)
class ArchivedPassage:
    text: str
    words: str
    page: int | None
    heading: str


class ArchiveWriter:
    """Writes an archive file by file; it is complete when close() returns."""

    def __init__(self, target: Path, name: str, model: str, folder: Path) -> None:
        """`folder` holds what is not yet packed."""
        self._name, self._model = name, model
        self._files: list[ArchivedFile] = []
        self._checksums: dict[str, str] = {}
        self._zip = zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._lines = (folder / _PASSAGES).open("w+b")
        self._rows = (folder / "rows").open("w+b")
        self._dimension = 0

    def add(self, file: ArchivedFile, content: Path, passages: Sequence[ArchivedPassage], rows: Vectors | None) -> None:
        """`rows` belong to `passages`, in their order."""
        with content.open("rb") as bytes_:
            self._pack(f"contents/{len(self._files)}", bytes_)
        self._files.append(file)
        for passage in passages:
            self._lines.write(json.dumps(asdict(passage), ensure_ascii=False).encode() + b"\n")
        if rows is not None and len(rows):
            self._dimension = rows.shape[1]
            self._rows.write(np.ascontiguousarray(rows, "<f4").tobytes())

    def close(self) -> None:
        self._lines.seek(0)
        self._pack(_PASSAGES, self._lines)
        count = self._rows.tell() // (4 * self._dimension) if self._dimension else 0
        self._rows.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, self._dimension)}
        digest = hashlib.sha256()
        with self._zip.open(_VECTORS, "w", force_zip64=True) as out:
            into = _Digesting(out, digest)
            np.lib.format.write_array_header_1_0(into, header)
            shutil.copyfileobj(self._rows, into, _BLOCK)
        self._checksums[_VECTORS] = digest.hexdigest()
        manifest = {
            "format": FORMAT,
            "name": self._name,
            "embedding_model": self._model,
            "dimension": self._dimension,
            "files": [asdict(file) for file in self._files],
            "sha256": self._checksums,
        }
        self._zip.writestr(_MANIFEST, json.dumps(manifest, ensure_ascii=False))
        for part in (self._zip, self._lines, self._rows):
            part.close()

    def _pack(self, member: str, source: IO[bytes]) -> None:
        digest = hashlib.sha256()
        with self._zip.open(member, "w", force_zip64=True) as out:
            shutil.copyfileobj(source, _Digesting(out, digest), _BLOCK)
        self._checksums[member] = digest.hexdigest()


class Archive:
    """An archive unpacked into `folder` and checked whole before anything of it is used. No name in it becomes a path.

    Raises InvalidRequest when it is no archive of ours, damaged or hostile, StorageFull when there is no room for it.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self._folder = folder
        try:
            with zipfile.ZipFile(source) as packed:
                self._read_manifest(packed)
                self._unpack(packed)
            self._check()
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError, NotImplementedError, EOFError) as error:
            raise _refused(f"it is damaged, or no archive of Quartet: {error}") from error
        except RuntimeError as error:  # zipfile's, for a member with a password
            raise _refused("it is encrypted") from error

    def content(self, number: int) -> Path:
        """The bytes of file `number`, to take away."""
        return self._folder / f"content-{number}"

    def passages(self) -> Iterator[tuple[list[ArchivedPassage], Vectors]]:
        """The passages of each file in order, with one row of vectors for each."""
        start = 0
        with (self._folder / _PASSAGES).open("rb") as lines:
            for file in self.files:
                yield [_passage(next(lines)) for _ in range(file.passages)], self._rows[start : start + file.passages]
                start += file.passages

    def _read_manifest(self, packed: zipfile.ZipFile) -> None:
        if packed.getinfo(_MANIFEST).file_size > _LISTED:
            raise _refused("its manifest is too large")
        manifest = json.loads(packed.read(_MANIFEST))
        if manifest["format"] != FORMAT:
            raise _refused(f"it is of format {manifest['format']}, and this version reads {FORMAT}")
        self.name = base_name(_text(manifest["name"]))
        self.embedding_model = _text(manifest["embedding_model"])
        self.dimension = _number(manifest["dimension"])
        self.files = [_file(entry) for entry in manifest["files"]]
        self._checksums: dict[str, str] = manifest["sha256"]

    def _unpack(self, packed: zipfile.ZipFile) -> None:
        places = {f"contents/{n}": self.content(n) for n in range(len(self.files))}
        places |= {_PASSAGES: self._folder / _PASSAGES, _VECTORS: self._folder / _VECTORS}
        members = packed.infolist()
        if sorted(member.filename for member in members) != sorted([*places, _MANIFEST]):
            raise _refused("its members are not those of its manifest")
        sizes = {f"contents/{n}": file.size for n, file in enumerate(self.files)}
        if any(member.file_size != sizes.get(member.filename, member.file_size) for member in members):
            raise _refused("its members have not the sizes that its manifest tells")
        if any(member.file_size > _TIGHTEST * member.compress_size + _BLOCK for member in members):
            raise _refused("it unpacks to far more than it is")
        if sum(member.file_size for member in members) + _ROOM > shutil.disk_usage(self._folder).free:
            raise StorageFull("The disk has no room to unpack the archive; free some space and try again.")
        for name, place in places.items():
            digest = hashlib.sha256()
            with packed.open(name) as read, place.open("xb") as out:  # reads no more than the size it says it has
                shutil.copyfileobj(read, _Digesting(out, digest), _BLOCK)
            if digest.hexdigest() != self._checksums[name]:
                raise _refused(f"the checksum of {name} is wrong")

    def _check(self) -> None:
        for number, file in enumerate(self.files):
            wrong = file.sha256 != self._checksums[f"contents/{number}"]
            if wrong or file.size != self.content(number).stat().st_size:
                raise _refused(f"“{file.name}” is not what its entry says")
        rows = np.load(self._folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        total = sum(file.passages for file in self.files)
        with (self._folder / _PASSAGES).open("rb") as lines:
            if sum(1 for _ in map(_passage, lines)) != total:
                raise _refused("its passages are not those of its files")
        if rows.dtype != np.dtype("<f4") or rows.shape != (total, self.dimension) or not np.isfinite(rows).all():
            raise _refused("its vectors are not those of its passages")
        self._rows: Vectors = rows


class _Digesting:
    def __init__(self, out: IO[bytes], digest: Any) -> None:
        self._out, self._digest = out, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._out.write(data)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"This archive cannot be imported: {why}. Export the knowledge base again.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise TypeError("a number is missing")
    return value


def _file(entry: Any) -> ArchivedFile:
    pages = entry["pages"]
    return ArchivedFile(
        file_label(_text(entry["name"])),
        _number(entry["size"]),
        _text(entry["sha256"])[:64],
        None if pages is None else _number(pages) % 2**31,
        _text(entry["error"])[:1000],
        _text(entry["created_at"])[:32],
        _number(entry["passages"]),
    )


def _passage(line: bytes) -> ArchivedPassage:
    entry = json.loads(line)
    page = entry["page"]
    return ArchivedPassage(
        _text(entry["text"]),
        _text(entry["words"]),
        None if page is None else _number(page) % 2**31,
        _text(entry["heading"]),
    )
