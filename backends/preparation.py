"""From what was typed to a model an engine can start: find it, recognise it, see that it fits, make it readable."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backends import hub
from backends.engines.base import Report
from backends.engines.factory import choose_backend, engine_maker
from backends.engines.remote import RemoteEngine, served_by_any, server_roots
from backends.engines.vllm import devices_asked, given
from backends.errors import InvalidRequest
from backends.hardware import MemoryNeed, check_fits, gpus, memory_free, memory_needed
from backends.job import run_job
from backends.specs import Candidate, EngineSettings, ModelSpec
from backends.types import Progress

if TYPE_CHECKING:
    from backends.families import Checkpoint

BACKENDS = ("auto", "vllm", "transformers", "openai")


async def prepare_candidate(
    spec: ModelSpec, settings: EngineSettings, given_back: int, report: Report
) -> tuple[Candidate, bool]:
    """What to start for `spec`, and whether it fits beside what runs now, which would give back `given_back` bytes.

    Raises InvalidRequest, ModelUnusable, HubUnreachable or EngineFailed, each before anything in service is touched.
    """
    if spec.backend == "quote":
        raise InvalidRequest("The engine quote needs no model: unload the one in service, and quote answers.")
    if spec.backend not in BACKENDS:
        raise InvalidRequest(f"There is no backend {spec.backend!r}; choose one of {', '.join(BACKENDS)}.")
    if spec.backend == "openai" or (spec.backend == "auto" and settings.engine_url and not spec.model_path):
        return await _remote(spec, settings, report), True
    if not spec.model_path:
        raise InvalidRequest(
            "Say which model to load: a folder, or the id of a model on a hub such as Qwen/Qwen3-0.6B."
        )
    from backends.families import recognise

    folder = await hub.resolve(spec.model_path, report, log_file=settings.data_dir / "logs" / "download.log")
    name = spec.model_path if hub.is_hub_id(spec.model_path) else folder.name
    report(Progress("reading the model's description"))
    checkpoint = await asyncio.to_thread(recognise, folder, spec.model_type)
    room = await asyncio.to_thread(weigh, checkpoint, spec.backend, settings)
    if room.sure:
        check_fits(room.need, room.free + given_back, name)
    readable = folder if checkpoint.native else await _convert(checkpoint, spec, settings, report)
    kv_bytes = room.need.kv_per_token * (checkpoint.context_length or 0)
    engine = await asyncio.to_thread(engine_maker, room.backend, readable, name, kv_bytes, settings)
    family, length = checkpoint.family, checkpoint.context_length
    return Candidate(spec, name, room.backend, family, length, room.need.total, engine), room.fits


@dataclass(frozen=True)
class Room:
    """What a model needs on the engine that would run it, and the bytes that are `free` for it there. Not `sure` for
    what is spread over other machines, or made smaller while it is loaded: the engine itself must tell."""

    backend: str
    need: MemoryNeed
    free: int
    sure: bool

    @property
    def fits(self) -> bool:
        return self.need.total <= self.free


def inspect(folder: str, model_type: str, backend: str, settings: EngineSettings) -> tuple[Checkpoint, Room]:
    """What is in a folder, and what loading it would find. Blocks. Raises ModelUnusable."""
    from backends.families import recognise

    checkpoint = recognise(Path(folder).expanduser(), model_type)
    return checkpoint, weigh(checkpoint, backend, settings)


def weigh(checkpoint: Checkpoint, backend: str, settings: EngineSettings) -> Room:
    """Blocks. Raises ModelUnusable for what is no model, or none for this backend."""
    need, found = memory_needed(checkpoint.folder, settings.precision), gpus(settings.visible_gpus)
    backend = choose_backend(backend, checkpoint, settings)
    devices = devices_asked(settings.engine_args) if backend == "vllm" else 1
    sure = devices <= max(1, len(found)) and not given("--quantization", settings.engine_args)
    return Room(backend, need, memory_free(found, devices), sure)


async def _remote(spec: ModelSpec, settings: EngineSettings, report: Report) -> Candidate:
    if not settings.engine_url:
        raise InvalidRequest("The backend openai needs the address of a server: start with --engine-url.")
    report(Progress("asking the server for its models"))
    roots, key = server_roots(settings.engine_url), settings.engine_key
    served = await served_by_any(roots, key, spec.model_path)
    engine = partial(RemoteEngine, roots, key, served.name, settings.patience)
    return Candidate(spec, served.name, "openai", "", served.context_length, 0, engine)


async def _convert(checkpoint: Checkpoint, spec: ModelSpec, settings: EngineSettings, report: Report) -> Path:
    """The folder with the checkpoint in a form that the engines read; converted once, in a child process."""
    source, cache = str(checkpoint.folder), str(settings.data_dir / "converted")
    command = [sys.executable, "-m", "backends.families", "prepare", source, cache, "--model-type", spec.model_type]
    log_file = settings.data_dir / "logs" / "convert.log"
    return Path(await run_job(command, {}, log_file, report, "Converting the checkpoint"))
