"""Files of a multipart body, written to disk while they arrive. Knows no knowledge base."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import python_multipart
from python_multipart.exceptions import FormParserError
from starlette.requests import Request

from backends.errors import InvalidRequest, StorageFull, TooLarge

MAX_FILES = 200
MAX_NAME = 1_000  # characters
MAX_HEADER = 8 * 1024  # bytes


@dataclass(frozen=True)
class Upload:
    """A file that has arrived: `path` holds its bytes; `name` is what the sender calls it, and only a label."""

    name: str
    path: Path


@asynccontextmanager
async def received(request: Request, field: str, folder: Path) -> AsyncIterator[list[Upload]]:
    """The files of `field` in a multipart body, in a folder of their own that is removed at the end.

    Raises InvalidRequest when the body is not multipart or has no such file, TooLarge for more than MAX_FILES files,
    StorageFull. The size of the whole body is limited elsewhere.
    """
    kind, options = python_multipart.multipart.parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest(f"Send the files as multipart/form-data in the field '{field}'.")
    own = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="upload-", dir=folder))
    try:
        parts = _Parts(own, field)
        parser = python_multipart.MultipartParser(options[b"boundary"], parts.callbacks())
        try:
            async for chunk in request.stream():
                # Parsing writes to the disk: not in the event loop.
                await asyncio.to_thread(parser.write, chunk)
            await asyncio.to_thread(parser.finalize)
        except FormParserError:
            raise InvalidRequest("The multipart body is damaged: send it again.") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("The disk of the server is full: free some space and send the files again.") from None
            raise
        finally:
            parts.close()
        if not parts.uploads:
            raise InvalidRequest(f"There is no file in the field '{field}'.")
        yield parts.uploads
    finally:
        await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)


class _Parts:
    """What the parser calls for each part of the body."""

    def __init__(self, folder: Path, field: str) -> None:
        self.uploads: list[Upload] = []
        self._folder = folder
        self._field = field.encode()
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._file: BufferedWriter | None = None

    def callbacks(self) -> python_multipart.multipart.MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self.close,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > MAX_HEADER:
            raise InvalidRequest("The multipart body is malformed: a header of a part is too long.")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = python_multipart.multipart.parse_options_header(self._disposition)
        if options.get(b"name") != self._field or b"filename" not in options:
            return  # another field: its bytes are skipped
        if len(self.uploads) >= MAX_FILES:
            raise TooLarge(f"At most {MAX_FILES} files can be sent at once: send the rest in a further request.")
        name = options[b"filename"].decode("utf-8", "replace")[:MAX_NAME]
        path = self._folder / str(len(self.uploads))
        self._file = path.open("wb")
        self.uploads.append(Upload(name, path))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
