"""transformers as a child process (the package transformers_server). Imports none of it; knows how it is started."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from backends.engines.base import Report
from backends.engines.remote_server import served_model
from backends.engines.server import Launch, LocalServer
from backends.openai_client import OpenAIChatModel
from backends.thinking import opens_thought
from backends.types import Patience, Progress

_ROOT = Path(__file__).resolve().parents[2]


class TransformersEngine:
    """Serves the model in `folder` as `name`, on the GPU where there is one, else on the CPU."""

    backend = "transformers"
    trouble = ""  # a process of ours that cannot answer is ended, and told by `ended`

    def __init__(
        self, folder: Path, name: str, precision: str, data_dir: Path, patience: Patience | None = None
    ) -> None:
        self._folder, self._name, self._precision, self._patience = folder, name, precision, patience
        log_file = data_dir / "logs" / f"transformers-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.log"
        self._server = LocalServer(self._launch, log_file, _nothing_in)

    async def start(self, report: Report) -> OpenAIChatModel:
        """Raises EngineFailed with the reason in plain words."""
        report(Progress("starting transformers"))
        await self._server.start(report)
        served = await served_model(self._server.base_url, self._server.key)
        return OpenAIChatModel(
            self._server.base_url, self._name, self._server.key, context_length=served.context_length,
            opens_thought=await asyncio.to_thread(opens_thought, self._folder), patience=self._patience,
        )  # fmt: skip

    def _launch(self, port: int, key: str) -> Launch:
        command = [sys.executable, "-m", "backends.engines.transformers_server"]
        command += ["--port", str(port), "--model", str(self._folder)]
        command += ["--name", self._name, "--precision", self._precision]
        env = {
            "ENGINE_KEY": key,
            "PYTHONPATH": str(_ROOT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }
        return Launch(command, env)

    async def stop(self) -> None:
        await self._server.stop()

    async def ended(self) -> str:
        return await self._server.ended()

    def log_tail(self) -> list[str]:
        return self._server.log_tail()


def _nothing_in(lines: Sequence[str]) -> Progress | None:
    """Its log tells no progress: /health does."""
    return None
