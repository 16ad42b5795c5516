"""The words of loading a model: what is asked for, with which settings, and what is known of it. Frozen values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backends.engines.base import Engine
from backends.types import Patience, Progress


@dataclass(frozen=True)
class EngineSettings:
    """What the operator set for all models; `engine_args` go to vLLM as they are.

    `visible_gpus` is what CUDA_VISIBLE_DEVICES says, None for all of them.

    At most `max_in_flight` answers are given at once and `max_waiting` questions stand in line. An engine that was
    not asked for `idle_timeout` seconds gives its memory back until the next question (0: never).
    """

    data_dir: Path
    engine_url: str = ""
    engine_key: str = ""
    engine_args: tuple[str, ...] = ()
    precision: str = "auto"
    vllm_python: str = ""
    visible_gpus: str | None = None
    max_in_flight: int = 128
    max_waiting: int = 256
    idle_timeout: float = 0.0
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class ModelSpec:
    """Which model to serve: a folder, a hub id, or for the backend "openai" its name there ("" = the first one)."""

    model_path: str
    model_type: str = ""
    backend: str = "auto"


State = Literal["empty", "loading", "ready", "asleep", "restarting", "failed"]


@dataclass(frozen=True)
class ModelStatus:
    """What page and API show. `state` is that of the newest load, so a model may be `serving` while it is "failed".

    "asleep" is an engine that was idle and gave its memory back; it comes back with the next question.
    """

    state: State
    name: str  # of the model in service, "" when there is none and quote answers
    backend: str
    family: str
    context_length: int | None
    loading: str  # what is being loaded now, else ""
    progress: Progress | None
    error: str  # plain words of the last failed load or crash
    in_flight: int
    serving: bool = False  # whether a question would be answered by the model in service
    waiting: int = 0  # questions that stand in line


@dataclass(frozen=True)
class Candidate:
    """A model that was found, recognised and made readable. `engine` makes a new engine for it each time it is called.

    `memory` is what it will need in bytes, 0 when it needs none here.
    """

    spec: ModelSpec
    name: str
    backend: str
    family: str
    context_length: int | None
    memory: int
    engine: Callable[[], Engine]
