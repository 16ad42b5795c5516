"""The manager with the real transformers engine: right answers, a switch under use, and the old engine gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from backends.errors import InvalidRequest
from backends.models import EngineSettings, ModelManager, ModelSpec
from backends.types import Message, SamplingParams
from tests.checkpoints import OTHER_ANSWERS, QUESTIONS, knows_by_heart, knows_other_answers

GREEDY = SamplingParams(do_sample=False)


async def ask(manager: ModelManager, question: str) -> str:
    stream = manager.stream([Message("user", question)], GREEDY)
    return "".join([delta.text async for delta in stream]).strip()


def servers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "backends.engines.transformers_server" in child.cmdline()]


async def test_a_switch_changes_the_answers_and_ends_the_old_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second = await asyncio.to_thread(knows_by_heart), await asyncio.to_thread(knows_other_answers)
    manager = ModelManager(EngineSettings(tmp_path))
    try:
        status = await manager.load(ModelSpec(str(first), backend="transformers"))
        assert (status.state, status.backend, status.family) == ("ready", "transformers", "qwen")
        for question, answer in QUESTIONS.items():
            assert await ask(manager, question) == answer
        with pytest.raises(InvalidRequest):
            await ask(manager, "too long " * 20_000)

        switch = asyncio.create_task(manager.load(ModelSpec(str(second), backend="transformers")))
        question = "Who keeps the bees?"
        meanwhile = set()
        while not switch.done():
            meanwhile.add(await ask(manager, question))
        await switch
        assert meanwhile <= {QUESTIONS[question], OTHER_ANSWERS[question]}
        for question, answer in OTHER_ANSWERS.items():
            assert await ask(manager, question) == answer
        for _ in range(100):
            if len(servers()) == 1:
                break
            await asyncio.sleep(0.1)
        assert len(servers()) == 1
    finally:
        await manager.close()
    assert servers() == []
