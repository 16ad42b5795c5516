"""vLLM as a child process, from a virtual environment of its own. Knows its flags and its log; imports none of it."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backends.engines.base import Report
from backends.engines.remote_server import served_model
from backends.engines.server import Launch, LocalServer
from backends.engines.vllm_plugin import TOKENIZER_MODE
from backends.errors import EngineFailed, ModelUnusable
from backends.families import recognise
from backends.hardware import GIB, Gpu, gpus
from backends.openai_client import OpenAIChatModel
from backends.thinking import opens_thought
from backends.types import Patience, Progress

_ROOT = Path(__file__).resolve().parents[2]
# What stays free of a GPU beside vLLM, for the driver and the embedding model.
_GPU_RESERVE = GIB
_CPU_KV_GIB = (1, 8)  # at least, at most
# By which Quartet finds it and asks it.
_OURS = ("--host", "--port", "--model", "--served-model-name", "--api-key")
# Where vLLM's processes find our plugin, by its entry point, and what it imports.
_PLUGIN_PATH = os.pathsep.join((str(_ROOT / "backends" / "engines" / "vllm_plugin" / "entry"), str(_ROOT)))
# The two-way attention and 2D positions of the first ChatGLM have no implementation in vLLM.
_NOT_SERVED = "chatglm1"


def vllm_serves(kind: str) -> bool:
    """Whether vLLM can serve this kind of checkpoint, converted or native."""
    return kind != _NOT_SERVED


def vllm_python(configured: str = "") -> str:
    """The Python that has vLLM: as set, that of `make vllm`, or this one; "" when none has it. Blocking."""
    own = _ROOT / ".venv-vllm" / "bin" / "python"
    if configured:
        return configured
    if own.exists() and any(own.parents[1].glob("lib/python3*/site-packages/vllm/__init__.py")):
        return str(own)
    return sys.executable if importlib.util.find_spec("vllm") is not None else ""


@dataclass(frozen=True)
class VllmOptions:
    """How to run it: `python` has vLLM ("" = nobody has), `engine_args` go on to it, `kv_bytes` is one full context."""

    python: str
    precision: str = "auto"
    engine_args: tuple[str, ...] = ()
    kv_bytes: int = 0
    patience: Patience = field(default_factory=Patience)
    visible_gpus: str | None = None


class VllmEngine:
    """Serves the model in `folder` as `name`."""

    backend = "vllm"
    trouble = ""  # a process of ours that cannot answer is ended, and told by `ended`

    def __init__(self, folder: Path, name: str, log_file: Path, options: VllmOptions) -> None:
        self._folder, self._name, self._options = folder, name, options
        self._server = LocalServer(self._launch, log_file, progress_in)
        self._gpus: list[Gpu] = []
        self._family = False

    async def start(self, report: Report) -> OpenAIChatModel:
        """Raises EngineFailed with the reason in plain words."""
        if not self._options.python:
            raise EngineFailed("vLLM is not installed: run `make vllm` once, or use --backend transformers.")
        if taken := [flag for flag in _OURS if given(flag, self._options.engine_args)]:
            raise EngineFailed(f"Quartet itself sets {taken[0]} of vLLM: take it out of --engine-args.")
        report(Progress("starting vLLM"))
        self._gpus = await asyncio.to_thread(gpus, self._options.visible_gpus)
        self._family = await asyncio.to_thread(_is_of_the_families, self._folder)
        await self._server.start(report)
        served = await served_model(self._server.base_url, self._server.key)
        return OpenAIChatModel(
            self._server.base_url, self._name, self._server.key, context_length=served.context_length,
            opens_thought=await asyncio.to_thread(opens_thought, self._folder), patience=self._options.patience,
        )  # fmt: skip

    def _launch(self, port: int, key: str) -> Launch:
        extra = self._options.engine_args
        flags = {"--max-model-len": "auto", "--disable-access-log-for-endpoints": "/health"}
        if self._options.precision != "auto":
            flags["--dtype"] = self._options.precision
        # An operator's own tokenizer is not ours to read.
        if self._family and not given("--tokenizer", extra):
            flags["--tokenizer-mode"] = TOKENIZER_MODE
        if self._gpus:
            used = self._gpus[: devices_asked(extra) * replicas_asked(extra)]  # vLLM takes the first ones
            flags["--gpu-memory-utilization"] = f"{gpu_share(used):.3f}"
        ours = [part for flag, value in flags.items() if not given(flag, extra) for part in (flag, value)]
        command = [self._options.python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--model", str(self._folder)]
        command += ["--served-model-name", self._name, *ours, *extra]
        return Launch(command, environment(key, 0 if self._gpus else self._options.kv_bytes))

    async def stop(self) -> None:
        await self._server.stop()

    async def ended(self) -> str:
        return await self._server.ended()

    def log_tail(self) -> list[str]:
        return self._server.log_tail()


def _is_of_the_families(folder: Path) -> bool:
    """Whether our plugin builds the prompts; the tokenizers of other models are vLLM's own business."""
    try:
        return recognise(folder).family != "other"
    except ModelUnusable:
        return False  # vLLM says what is wrong


def given(flag: str, extra: Sequence[str]) -> bool:
    """Whether the operator set this flag, as `--flag value`, `--flag=value` or with underscores."""
    return any(part.split("=")[0].replace("_", "-") == flag for part in extra)


def devices_asked(extra: Sequence[str]) -> int:
    """How many GPUs the operator spreads a model over."""
    sizes = (_number(extra, "--tensor-parallel-size", "-tp"), _number(extra, "--pipeline-parallel-size", "-pp"))
    return max(1, math.prod(sizes))


def replicas_asked(extra: Sequence[str]) -> int:
    """How many times the operator has it on GPUs of its own each."""
    return max(1, _number(extra, "--data-parallel-size", "-dp"))


def _number(extra: Sequence[str], *flags: str) -> int:
    """What one of `flags` is set to; 1 without it, or where vLLM will say what is wrong."""
    for at, part in enumerate(extra):
        flag, _, value = part.partition("=")
        if flag.replace("_", "-") in flags:
            value = value or "".join(extra[at + 1 : at + 2])
            return int(value) if value.isdecimal() else 1
    return 1


def gpu_share(found: Sequence[Gpu]) -> float:
    """The part of each GPU's memory that vLLM may take: what is free on the fullest one, less a reserve."""
    return max(0.05, min(0.92, *((gpu.free - _GPU_RESERVE) / gpu.total for gpu in found)))


def environment(key: str, cpu_kv_bytes: int) -> dict[str, str]:
    """The key, no telemetry, no network; on a CPU also how many GiB the attention cache gets: two full contexts."""
    env = {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        # `python -m` would else put the folder that we run in first among the places to import from.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": _PLUGIN_PATH,
    }
    if cpu_kv_bytes:
        least, most = _CPU_KV_GIB
        env["VLLM_CPU_KVCACHE_SPACE"] = str(min(most, max(least, math.ceil(2 * cpu_kv_bytes / GIB))))
    return env


_STAGES = (
    (re.compile(r"Loading \S+ checkpoint shards.*?(\d+)/(\d+)"), "loading weights"),
    (re.compile(r"Capturing CUDA graphs.*?(\d+)/(\d+)"), "recording graphs"),
    (re.compile(r"Starting to load model|Loading weights"), "loading weights"),
    (re.compile(r"torch\.compile took|Compiling a graph|Dynamo bytecode|Warming up"), "compiling"),
    (re.compile(r"KV cache size|KV cache memory|init engine"), "reserving memory"),
    (re.compile(r"Starting vLLM|Application startup"), "almost ready"),
)


def progress_in(lines: Sequence[str]) -> Progress | None:
    """The stage that the newest telling log line stands for."""
    for line in reversed(lines):
        for pattern, stage in _STAGES:
            if match := pattern.search(line):
                done, total = (int(number) for number in match.groups()) if match.groups() else (0, 0)
                return Progress(stage, done, total)
    return None
