"""Small models beside a large one on the same GPU: where it has no room left, they go on in main memory.

For the processes that hold such a model; knows none of them by name, and imports torch when they have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


def loaded(load: Callable[[str | None], Result]) -> Result:
    """What `load` makes on the device that it chooses by itself (None), or else on "cpu"."""
    import torch

    try:
        return load(None)
    except torch.OutOfMemoryError:
        _to_main_memory()
        return load("cpu")


def computed(model: Any, work: Callable[[], Result]) -> Result:
    """What `work` computes with `model`, which stays in main memory when that took more than the GPU had left."""
    import torch

    try:
        return work()
    except torch.OutOfMemoryError:
        model.to("cpu")
        _to_main_memory()
        return work()


def _to_main_memory() -> None:
    import torch

    _log.warning("the GPU has no room left beside the language model: this one goes on in main memory")
    torch.cuda.empty_cache()
