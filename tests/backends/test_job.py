"""Work in a child process: its progress, its result, its named error, and its end when nobody waits any more."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from backends.errors import EngineFailed, HubUnreachable, ModelUnusable
from backends.job import run_job
from backends.types import Progress

SAY = "import json, sys, time\ndef say(**event): print(json.dumps(event), flush=True)\n"


async def job(code: str, folder: Path, reported: list[Progress] | None = None) -> str:
    report = (reported if reported is not None else []).append
    return await run_job([sys.executable, "-c", SAY + code], {}, folder / "job.log", report, "Counting")


async def test_progress_and_result(tmp_path: Path) -> None:
    reported: list[Progress] = []
    begin = "print('hello'); say(stage='counting', done=1, total=9, note='n'); time.sleep(0.7)"
    end = "say(stage='counting', done=9, total=9); print('{not json'); say(result='nine')"
    assert await job(f"{begin}; {end}", tmp_path, reported) == "nine"
    assert reported[0] == Progress("counting", 1, 9, "n")
    assert reported[-1] == Progress("counting", 9, 9)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("hub_unreachable", HubUnreachable), ("model_unusable", ModelUnusable), ("no_such_code", EngineFailed)],
)
async def test_a_named_error_is_raised_as_such(tmp_path: Path, code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="nothing to count"):
        await job(f"say(error='nothing to count', code='{code}'); sys.exit(1)", tmp_path)


async def test_a_crash_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed) as caught:
        await job("raise ValueError('the abacus is broken')", tmp_path)
    assert caught.value.message == (
        "Counting failed: its process ended with exit code 1; its last words were: the abacus is broken"
    )


async def test_cancelling_ends_the_child(tmp_path: Path) -> None:
    asleep = asyncio.Event()
    code = [sys.executable, "-c", SAY + "say(stage='asleep'); time.sleep(600)"]
    work = run_job(code, {}, tmp_path / "job.log", lambda progress: asleep.set(), "Sleeping")
    task = asyncio.create_task(work)
    await asyncio.wait_for(asleep.wait(), 10)
    task.cancel()
    await asyncio.wait([task])
    running = [
        child for child in psutil.Process().children(recursive=True) if "say(stage='asleep')" in str(child.cmdline())
    ]
    assert running == []
