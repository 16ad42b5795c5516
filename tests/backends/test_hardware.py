"""What a model needs and what is free: read from headers and sizes, said in GiB before anything is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ModelUnusable
from backends.hardware import (
    GIB,
    MemoryNeed,
    check_fits,
    gpus,
    kv_bytes_per_token,
    memory_free,
    memory_needed,
    weight_files,
)


def safetensors(path: Path, dtype: str, size: int) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * (size - 8 - len(header)))


def model(folder: Path, config: dict[str, Any], **files: str) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name, dtype in files.items():
        safetensors(folder / f"{name}.safetensors", dtype, 4000)
    return folder


def test_weights_are_counted_as_they_lie_on_disk(tmp_path: Path) -> None:
    need = memory_needed(model(tmp_path, {}, a="BF16", b="BF16"))
    assert need.weights == 8000
    assert need.total == need.weights + need.kv_cache + need.overhead


@pytest.mark.parametrize(("stored", "served", "weights"), [("F32", "bfloat16", 4000), ("BF16", "float32", 16000)])
def test_another_precision_changes_their_size(tmp_path: Path, stored: str, served: str, weights: int) -> None:
    assert memory_needed(model(tmp_path, {}, a=stored, b=stored), served).weights == weights


def test_older_weights_count_only_where_there_are_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\0" * 100)
    assert memory_needed(model(tmp_path, {"torch_dtype": "float16"})).weights == 100
    safetensors(tmp_path / "model.safetensors", "F16", 500)
    assert memory_needed(tmp_path).weights == 500
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        # Qwen3-0.6B, ChatGLM3-6B, Baichuan2-13B and Qwen-7B in their own words.
        ({"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}, 114_688),
        ({"num_layers": 28, "num_attention_heads": 32, "multi_query_group_num": 2, "kv_channels": 128}, 28_672),
        ({"num_hidden_layers": 40, "num_attention_heads": 40, "hidden_size": 5120}, 819_200),
        ({"n_layer": 32, "n_head": 32, "n_embd": 4096}, 524_288),
        ({"text_config": {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 2}}, 8),
        ({"num_hidden_layers": "many"}, 0),
    ],
)
def test_the_attention_cache_is_read_from_the_config_of_each_family(
    config: dict[str, Any], bytes_per_token: int
) -> None:
    assert kv_bytes_per_token(config) == bytes_per_token


@pytest.mark.parametrize("damage", [b"", b"\xff" * 20, struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"[1]]"])
def test_a_damaged_header_is_no_reason_to_fail_here(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    assert memory_needed(model(tmp_path, {})).weights == len(damage)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"no readable config\.json"):
        memory_needed(tmp_path)


def test_too_large_is_said_with_what_is_needed_and_what_is_free() -> None:
    check_fits(MemoryNeed(GIB, 0, 0), GIB, "tiny")
    with pytest.raises(ModelUnusable) as caught:
        check_fits(MemoryNeed(14 * GIB, GIB // 2, GIB // 2), 6 * GIB, "Qwen-7B-Chat")
    assert caught.value.message.startswith(
        "Qwen-7B-Chat needs about 15.0 GiB of memory (weights 14.0 GiB, context 0.5 GiB, engine 0.5 GiB) "
        "and 6.0 GiB are free"
    )


def test_this_machine_has_memory() -> None:
    assert 0 < memory_free([]) < 2**50


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'GPU-a1, 81559, 70000'; echo 'GPU-b2, 81559, 80000'")
    assert [gpu.free for gpu in gpus()] == [70000 * 1024**2, 80000 * 1024**2]
    assert memory_free(gpus()) == 70000 * 1024**2  # engines take the first
    assert memory_free(gpus(), devices=2) == 150000 * 1024**2


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        ("1,0", [2, 1]),
        ("2, GPU-a", [3, 1]),
        ("GPU-b2", [2]),
        ("0,7,1", [1]),  # what comes after one that is not there is hidden too
        ("-1", []),
        ("", []),
        ("GPU-", []),  # of more than one
        ("MIG-77,0", [1, 2, 3]),  # a part of one; nvidia-smi does not tell of which
    ],
)
def test_only_the_gpus_that_cuda_shows_to_the_engines_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, free: list[int]
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'GPU-a1, 9, 1'; echo 'GPU-b2, 9, 2'; echo 'GPU-c3, 9, 3'")
    assert [gpu.free // 1024**2 for gpu in gpus(visible)] == free


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo 'GPU-a1, [N/A], [N/A]'"])
def test_a_driver_that_does_not_work_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    nvidia_smi(tmp_path, monkeypatch, script)
    assert gpus() == []
