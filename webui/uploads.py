"""The rule that a file input only ever means a file uploaded here, and the Blocks that hold every event to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from backends.errors import InvalidRequest

NOT_UPLOADED = "That file was not uploaded here. Please choose it again."


def uploaded_file(path: str, folder: Path) -> Path:
    """The real path of an uploaded file. Raises InvalidRequest unless it is a plain file under the upload folder."""
    try:
        given = Path(path)
        real = given.resolve(strict=True)
        inside = real.is_relative_to(folder.resolve()) and real.is_file() and not given.is_symlink()
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise InvalidRequest(NOT_UPLOADED)
    return real


def _file_paths(value: object, depth: int = 0) -> Iterator[str]:
    # Whatever looks like Gradio's FileData, at any depth and in the input of any component.
    if depth > 20:
        raise InvalidRequest("The input is nested too deeply.")
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and ("meta" in value or "url" in value):
            yield value["path"]
        for inner in value.values():
            yield from _file_paths(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _file_paths(inner, depth + 1)


class GuardedBlocks(gr.Blocks):  # type: ignore[misc]
    """Blocks that refuse an event whose input names a file that is not an upload, before Gradio looks at it.

    Gradio would fetch a URL given as a path, and reads any file of the host while it believes it was not launched.
    `upload_folder` must be set before the first event.
    """

    upload_folder: Path

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            for path in _file_paths(inputs):
                uploaded_file(path, self.upload_folder)
        except InvalidRequest as refused:
            raise gr.Error(refused.message, print_exception=False) from None
        processed: list[Any] = await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        return processed
