"""Picks the engine for a checkpoint and makes it. The one place that knows all engines with weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backends.engines.base import Engine
from backends.engines.vllm import VllmEngine, VllmOptions, vllm_python, vllm_serves
from backends.errors import ModelUnusable
from backends.hardware import gpus
from backends.specs import EngineSettings

if TYPE_CHECKING:
    from backends.families import Checkpoint


def choose_backend(asked: str, checkpoint: Checkpoint, settings: EngineSettings) -> str:
    """ "auto" is vLLM where it is installed, there is a GPU and it serves this model, else transformers. Blocking.

    Raises ModelUnusable when vLLM was asked for and cannot serve it.
    """
    if asked == "vllm" and not vllm_serves(checkpoint.kind):
        raise ModelUnusable(f"vLLM cannot serve {checkpoint.kind} models; use --backend transformers, which can.")
    if asked != "auto":
        return asked
    known = checkpoint.family != "other" and vllm_serves(checkpoint.kind)
    return "vllm" if known and vllm_python(settings.vllm_python) and gpus(settings.visible_gpus) else "transformers"


def engine_maker(
    backend: str, folder: Path, name: str, kv_bytes: int, settings: EngineSettings
) -> Callable[[], Engine]:
    """What makes a new engine for the model in `folder` each time; `kv_bytes` is one full context in the cache."""
    if backend == "vllm":
        log_file = settings.data_dir / "logs" / f"vllm-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.log"
        python = vllm_python(settings.vllm_python)
        options = VllmOptions(
            python, settings.precision, settings.engine_args, kv_bytes, settings.patience, settings.visible_gpus
        )
        return partial(VllmEngine, folder, name, log_file, options)
    from backends.engines.transformers import TransformersEngine

    return partial(TransformersEngine, folder, name, settings.precision, settings.data_dir, settings.patience)
