"""The four model families: what a checkpoint is, the form every engine reads, and the ids of a conversation.

Importing this loads neither torch nor transformers; `recognise` needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.families.prompts import prompt_ids
from backends.families.recognise import Checkpoint, recognise
from backends.types import Progress

__all__ = ["Checkpoint", "load_pretrained", "prepare", "prompt_ids", "recognise"]

if TYPE_CHECKING:
    from backends.families.load import load_pretrained


def prepare(checkpoint: Checkpoint, cache: Path, report: Callable[[Progress], None]) -> Path:
    """The folder that engines read: the checkpoint itself when it is native, else its conversion in `cache`.

    Converts once, whichever of several processes asks first; blocking, and imports torch, so the app runs it as a
    child: `python -m backends.families prepare SRC CACHE`. That prints one JSON object per line on standard output:

        {"stage": "converting", "done": 1048576, "total": 2097152, "note": ""}   (bytes)   as often as it likes, then
        {"result": "/path/of/the/folder"}   or   {"error": "one sentence", "code": "model_unusable"}

    Raises ModelUnusable when the checkpoint is damaged, StorageFull when the disk has no room.
    """
    if checkpoint.native:
        return checkpoint.folder
    from backends.families.cache import prepared

    return prepared(checkpoint, cache, report)


def __getattr__(name: str) -> Any:
    # Its module is light, but its callers are not: nothing of transformers is looked at before it is called.
    if name == "load_pretrained":
        from backends.families.load import load_pretrained

        return load_pretrained
    raise AttributeError(name)
