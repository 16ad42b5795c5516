"""Switching between real engines while clients ask without pause: nothing is lost, mixed up or left over."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.engines.vllm import vllm_python
from backends.models import EngineSettings, ModelManager
from bench.switching import VLLM_ARGS, elsewhere, run, the_models


@pytest.mark.xdist_group("vllm")  # two vLLM at once would be more than a small machine holds
@pytest.mark.timeout(900)
async def test_no_question_is_lost_while_models_are_switched(tmp_path: Path) -> None:
    """From transformers to a server elsewhere, to vLLM where it is installed, and back."""
    async with elsewhere(tmp_path) as (url, key):
        manager = ModelManager(EngineSettings(tmp_path, engine_url=url, engine_key=key, engine_args=VLLM_ARGS))
        try:
            outcome = await run(manager, the_models(bool(vllm_python())), switches=3, clients=16)
        finally:
            await manager.close()
    assert outcome.answers > 16
    assert (outcome.lost, outcome.wrong, outcome.left_over) == ([], [], [])
