"""The support table is true, row by row, and the README shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.engines.vllm import vllm_serves
from backends.families import recognise
from backends.families.support import SUPPORT, Support, table
from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.backends.test_vllm_families import SERVED
from tests.shared_data import requires_shared

README = Path(__file__).resolve().parents[3] / "README.md"


def test_every_reference_checkpoint_has_its_row() -> None:
    assert sorted(row.kind for row in SUPPORT) == sorted(NAMES)


@pytest.mark.parametrize("row", SUPPORT, ids=lambda row: row.kind)
def test_vllm_serves_what_the_table_says(row: Support) -> None:
    assert vllm_serves(row.kind) is row.vllm


def test_every_row_with_vllm_is_run_on_it() -> None:
    assert {row.kind for row in SUPPORT if row.vllm} == set(SERVED)


@requires_shared
@pytest.mark.parametrize("row", SUPPORT, ids=lambda row: row.kind)
def test_there_are_conversations_to_compare_where_the_table_says_so(row: Support) -> None:
    assert any(case["kind"] == "chat" for case in golden(row.kind)["cases"]) is row.chats


@requires_shared
@pytest.mark.parametrize("row", SUPPORT, ids=lambda row: row.kind)
def test_the_classes_are_those_of_the_table(row: Support, converted: Callable[[str], Path]) -> None:
    original, readable = recognise(FAMILIES / row.kind), recognise(converted(row.kind))
    assert (original.kind, original.architecture, readable.architecture) == (row.kind, row.original, row.served_as)


def test_the_readme_shows_the_table() -> None:
    assert table() in README.read_text(encoding="utf-8"), f"put this into README.md:\n\n{table()}"
