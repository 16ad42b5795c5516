"""A long piece of work in a child process that tells how far it is. Knows nothing of what the work is.

The child prints one JSON object per line: {"stage", "done", "total", "note"} as often as it likes, and at the end
{"result": "..."} or {"error": "one sentence", "code": "..."} with the code of an error class. Other lines are its log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends import errors
from backends.engines.base import Report
from backends.engines.failures import why_it_ended
from backends.process import EngineProcess
from backends.types import Progress

_POLL_SECONDS = 0.25
ROOT = Path(__file__).resolve().parents[1]


async def run_job(command: Sequence[str], env: Mapping[str, str], log_file: Path, report: Report, what: str) -> str:
    """Run a command to its end and return its result; cancelling ends the child.

    Raises the error that the child names, or EngineFailed that says that `what` failed.
    """
    process = EngineProcess(command, {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env}, log_file)
    await process.start()
    over = asyncio.create_task(process.wait())
    try:
        while not (await asyncio.wait([over], timeout=_POLL_SECONDS))[0]:
            if (progress := _newest_progress(process.log_tail(20))) is not None:
                report(progress)
    finally:
        over.cancel()
        await process.stop(grace=1.0)
    log = process.log_tail(200)
    if (progress := _newest_progress(log)) is not None:
        report(progress)
    for event in reversed(_events(log)):
        if "result" in event:
            return str(event["result"])
        if "error" in event:
            raise _named(str(event.get("code")))(str(event["error"]))
    raise errors.EngineFailed(f"{what} failed: {why_it_ended(log, await process.wait())}")


def _events(lines: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _newest_progress(lines: Sequence[str]) -> Progress | None:
    for event in reversed(_events(lines)):
        if "stage" in event:
            done, total = int(event.get("done") or 0), int(event.get("total") or 0)
            return Progress(str(event["stage"]), done, total, str(event.get("note") or ""))
    return None


def _named(code: str) -> type[errors.QuartetError]:
    named = {cls.code: cls for cls in (errors.ModelUnusable, errors.HubUnreachable, errors.StorageFull)}
    return named.get(code, errors.EngineFailed)
