"""What can be wrong with a model is said before anything is started, and the model in service stays."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from backends.engines.factory import choose_backend, engine_maker
from backends.errors import ModelUnusable
from backends.families import Checkpoint, recognise
from backends.hardware import GIB, Gpu
from backends.models import EngineSettings, ModelManager, ModelSpec
from backends.preparation import prepare_candidate
from backends.types import Progress
from tests.checkpoints import untrained
from tests.shared_data import SHARED, requires_shared


def huge(folder: Path) -> Path:
    """A model of 64 TiB that takes no room on the disk."""
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    for number in range(4096):
        with (folder / f"model-{number:05}.safetensors").open("wb") as file:
            file.truncate(16 * GIB)
    return folder


async def refusal(spec: ModelSpec, data_dir: Path) -> str:
    """Why the manager refuses it; it starts no engine for that."""
    manager = ModelManager(EngineSettings(data_dir))
    with pytest.raises(ModelUnusable) as caught:
        await manager.load(spec)
    status = manager.status
    assert (status.state, status.name, status.backend, status.error) == ("failed", "", "quote", caught.value.message)
    await manager.close()
    return caught.value.message


async def test_a_model_too_large_for_memory_is_refused_before_loading(tmp_path: Path) -> None:
    folder = tmp_path / "Giant-32T"
    folder.mkdir()
    said = await refusal(ModelSpec(str(await asyncio.to_thread(huge, folder))), tmp_path)
    assert said.startswith("Giant-32T needs about ")
    assert "choose a smaller model" in said


@pytest.mark.parametrize(
    ("args", "fits"),
    [
        ((), False),
        (("--tensor-parallel-size", "2"), True),
        (("--quantization", "fp8"), True),  # how much smaller it gets is vLLM's to know
        (("--tensor-parallel-size", "2", "--pipeline-parallel-size", "4"), True),  # GPUs of other machines
    ],
)
async def test_a_model_may_need_all_the_gpus_that_it_is_spread_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], fits: bool
) -> None:
    folder = tmp_path / "Large"
    folder.mkdir()
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(100 * GIB)
    two = [Gpu(80 * GIB, 78 * GIB)] * 2
    monkeypatch.setattr("backends.preparation.gpus", lambda visible: two)
    settings = EngineSettings(tmp_path, engine_args=args, vllm_python="python")
    spec = ModelSpec(str(folder), backend="vllm")
    if fits:
        candidate, _ = await prepare_candidate(spec, settings, 0, lambda progress: None)
        assert candidate.memory > 100 * GIB
    else:
        with pytest.raises(ModelUnusable, match="Large needs about"):
            await prepare_candidate(spec, settings, 0, lambda progress: None)


async def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert "config.json" in await refusal(ModelSpec(str(tmp_path)), tmp_path)


async def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "There is no folder" in await refusal(ModelSpec(str(tmp_path / "gone")), tmp_path)


async def test_a_native_checkpoint_is_ready_to_be_started(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(untrained, "Qwen3ForCausalLM")
    settings = EngineSettings(tmp_path)
    spec = ModelSpec(str(folder), backend="transformers")
    candidate, fits_beside = await prepare_candidate(spec, settings, 0, lambda progress: None)
    assert (candidate.name, candidate.backend, candidate.family) == (folder.name, "transformers", "qwen")
    assert GIB / 2 < candidate.memory < GIB
    assert fits_beside
    assert candidate.engine() is not candidate.engine()


@requires_shared
@pytest.mark.parametrize("kind", ["qwen1", "baichuan2-13b"])
async def test_an_original_checkpoint_is_converted_once(tmp_path: Path, kind: str) -> None:
    spec, settings = ModelSpec(str(SHARED / "families" / kind), backend="transformers"), EngineSettings(tmp_path)
    reported: list[Progress] = []
    candidate, _ = await prepare_candidate(spec, settings, 0, reported.append)
    assert candidate.name == kind
    assert "converting" in {progress.stage for progress in reported}
    (converted,) = [path.parent for path in (tmp_path / "converted").glob("*/config.json")]
    assert recognise(converted).native
    reported.clear()
    await prepare_candidate(spec, settings, 0, reported.append)
    assert "converting" not in {progress.stage for progress in reported}


def checkpoint(family: str, kind: str) -> Checkpoint:
    return Checkpoint(Path("x"), family, kind, "", True, 4096)


def on_a_gpu_box(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSettings:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU-1, 81559, 80000'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return EngineSettings(folder, vllm_python="/opt/vllm/bin/python")


def test_auto_is_vllm_on_a_gpu_for_what_vllm_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = on_a_gpu_box(tmp_path, monkeypatch)
    assert choose_backend("auto", checkpoint("qwen", "qwen3"), settings) == "vllm"
    assert choose_backend("auto", checkpoint("baichuan", "baichuan2-13b"), settings) == "vllm"
    assert choose_backend("auto", checkpoint("chatglm", "chatglm1"), settings) == "transformers"
    assert choose_backend("auto", checkpoint("other", "mistral"), settings) == "transformers"
    assert choose_backend("transformers", checkpoint("qwen", "qwen3"), settings) == "transformers"
    assert engine_maker("vllm", tmp_path, "Qwen/Qwen3-4B", GIB, settings)().backend == "vllm"


def test_gpus_that_are_hidden_from_it_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(on_a_gpu_box(tmp_path, monkeypatch), visible_gpus="")
    assert choose_backend("auto", checkpoint("qwen", "qwen3"), settings) == "transformers"


def test_auto_is_transformers_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = EngineSettings(tmp_path, vllm_python="/opt/vllm/bin/python")
    assert choose_backend("auto", checkpoint("qwen", "qwen3"), settings) == "transformers"
    assert choose_backend("vllm", checkpoint("qwen", "qwen3"), settings) == "vllm"


def test_vllm_for_what_it_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="use --backend transformers"):
        choose_backend("vllm", checkpoint("chatglm", "chatglm1"), EngineSettings(tmp_path))
