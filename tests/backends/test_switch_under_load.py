"""Switching between real engines while clients ask without pause: nothing is lost, mixed up or left over."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.models import EngineSettings, ModelManager
from bench.switching import elsewhere, run, the_models


@pytest.mark.timeout(600)
async def test_no_question_is_lost_while_models_are_switched(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as (url, key):
        manager = ModelManager(EngineSettings(tmp_path, engine_url=url, engine_key=key))
        try:
            outcome = await run(manager, the_models(with_vllm=False), switches=3, clients=16)
        finally:
            await manager.close()
    assert outcome.answers > 16
    assert (outcome.lost, outcome.wrong, outcome.left_over) == ([], [], [])
