"""From what was typed to a folder: a local one as it is, a hub id fetched once. No network unless a hub id was given.

The fetching runs in a child process (hub_download.py); the hub's library is not imported here.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from backends.engines.base import Report
from backends.errors import ModelUnusable
from backends.job import run_job
from backends.types import Progress

MODELSCOPE = "modelscope:"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"(?:{MODELSCOPE})?{_NAME}/{_NAME}")

# For the child: no telemetry, no prompts; being asked for a hub id is what makes the network allowed.
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_ETAG_TIMEOUT": "5",
    "TQDM_DISABLE": "1",
}


def is_hub_id(text: str) -> bool:
    """Whether this reads as `org/name` or `modelscope:org/name` and is no folder here."""
    return _HUB_ID.fullmatch(text) is not None and not re.search(r"--|\.\.", text) and not Path(text).is_dir()


async def resolve(
    model_path: str, report: Report, *, log_file: Path, environment: Mapping[str, str] | None = None
) -> Path:
    """The folder that holds the model. `environment` is for the fetching child, as HF_ENDPOINT or HF_HUB_CACHE.

    Raises ModelUnusable (no such folder, not on the hub, no access, damaged), HubUnreachable or StorageFull.
    """
    folder = await asyncio.to_thread(lambda: Path(model_path).expanduser().resolve())
    if await asyncio.to_thread(folder.is_dir):
        return folder
    if await asyncio.to_thread(folder.exists):
        raise ModelUnusable(f"{model_path} is a file; give the folder that holds it, with config.json and the weights.")
    if not is_hub_id(model_path):
        raise ModelUnusable(
            f"There is no folder {model_path}, and it is no hub id either (those look like Qwen/Qwen3-0.6B)."
        )
    report(Progress("looking for the model", note=model_path))
    command = [sys.executable, "-m", "backends.hub_download", model_path]
    env = {**_ENVIRONMENT, **(environment or {})}
    return Path(await run_job(command, env, log_file, report, "Fetching the model"))
