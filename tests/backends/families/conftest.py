"""Each reference checkpoint is converted and loaded once for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from backends.families import load_pretrained, prepare, recognise
from backends.types import Progress
from tests.backends.families.reference import FAMILIES

Loaded = Callable[[str], tuple[Any, Any]]


def quiet(progress: Progress) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder engines read, for the name of a reference checkpoint."""
    folder = tmp_path_factory.mktemp("converted")
    return cache(lambda name: prepare(recognise(FAMILIES / name), folder, quiet))


@pytest.fixture(scope="session")
def loaded(converted: Callable[[str], Path]) -> Loaded:
    """Model in float32 and tokenizer, for the name of a reference checkpoint."""
    return cache(lambda name: load_pretrained(converted(name), dtype="float32"))
