"""What memory there is, and whether a model fits before it is loaded. Reads file headers, never weights; no torch."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable

GIB = 1024**3
# Room for one conversation of this many tokens is counted; engines take more where there is more.
KV_TOKENS = 4096
_RUNTIME_BYTES = GIB // 2
_BYTES_PER_VALUE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "float32": 4, "float16": 2, "bfloat16": 2}
_MAX_HEADER = 100 * 1024 * 1024


@dataclass(frozen=True)
class MemoryNeed:
    """What serving a model takes, in bytes; `kv_per_token` is what one more token of context takes."""

    weights: int
    kv_cache: int
    overhead: int
    kv_per_token: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def memory_needed(folder: Path, precision: str = "auto") -> MemoryNeed:
    """An estimate from config.json and the headers and sizes of the weight files, for 4,096 tokens of context.

    `precision` other than "auto" counts the weights in that type. Raises ModelUnusable when config.json cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{folder.name} has no readable config.json, so it is no model folder.") from error
    files = weight_files(folder)
    on_disk = sum(path.stat().st_size for path in files)
    stored = _stored_width(files, config)
    served = _BYTES_PER_VALUE.get(precision, stored)
    weights = on_disk * served // stored
    per_token = kv_bytes_per_token(config)
    return MemoryNeed(weights, per_token * KV_TOKENS, _RUNTIME_BYTES + weights // 20, per_token)


def weight_files(folder: Path) -> list[Path]:
    """The weight files that would be loaded: safetensors if there are any, else the older format."""
    for pattern in ("*.safetensors", "*.bin"):
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    return []


def _stored_width(files: list[Path], config: Mapping[str, Any]) -> int:
    """Bytes per value in the weight files, 2 where nothing says so."""
    for path in files[:1]:
        if path.suffix == ".safetensors" and (dtype := _first_dtype(path)) is not None:
            return _BYTES_PER_VALUE.get(dtype, 2)
    named = str(config.get("dtype") or config.get("torch_dtype") or "")
    return _BYTES_PER_VALUE.get(named.removeprefix("torch."), 2)


def _first_dtype(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, struct.error, AttributeError), path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length <= _MAX_HEADER:
            entries = json.loads(file.read(length))
            return next((str(entry["dtype"]) for name, entry in entries.items() if name != "__metadata__"), None)
    return None


def kv_bytes_per_token(config: Mapping[str, Any]) -> int:
    """Bytes of attention cache per token at two bytes a value; the four families name the same things differently."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    layers = _number(text, "num_hidden_layers", "num_layers", "n_layer")
    heads = _number(text, "num_attention_heads", "n_head")
    kv_heads = _number(text, "num_key_value_heads", "multi_query_group_num") or heads
    width = _number(text, "head_dim", "kv_channels") or (
        _number(text, "hidden_size", "n_embd") // heads if heads else 0
    )
    return 2 * layers * kv_heads * width * 2


def _number(config: object, *names: str) -> int:
    values = (config.get(name) for name in names) if isinstance(config, dict) else ()
    return next((value for value in values if isinstance(value, int) and value > 0), 0)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, memory in bytes."""

    total: int
    free: int


def gpus(visible: str | None = None) -> list[Gpu]:
    """The GPUs that our engines see, as nvidia-smi tells of them; none where there is no nvidia-smi. `visible` is what
    CUDA_VISIBLE_DEVICES holds, None where it is not set. Blocking, some 50 ms."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = re.findall(r"^\s*(\S+)\s*,\s*(\d+)\s*,\s*(\d+)\s*$", answer, re.MULTILINE)
    found = {uuid: Gpu(int(total) * 1024**2, int(free) * 1024**2) for uuid, total, free in rows}
    return list(found.values()) if visible is None else [found[uuid] for uuid in _chosen(visible, list(found))]


def _chosen(visible: str, uuids: Sequence[str]) -> list[str]:
    """Which of the GPUs CUDA_VISIBLE_DEVICES names, in its order: by number or by the beginning of the UUID, and none
    from the first on that there is not. Source: NVIDIA, CUDA C++ Programming Guide, CUDA environment variables."""
    chosen: list[str] = []
    for name in visible.split(","):
        name = name.strip()
        if name.startswith("MIG-"):
            return list(uuids)  # a part of one of them; of which, nvidia-smi does not tell here
        named = [uuid for at, uuid in enumerate(uuids) if name == str(at) or (name and uuid.startswith(name))]
        if len(named) != 1:
            break
        chosen += named
    return chosen


def memory_free(found: Sequence[Gpu], devices: int = 1) -> int:
    """Free bytes where a model would live: on the first `devices` of the GPUs that were found, which are those that
    engines take; in main memory where there are none. Blocking."""
    if found:
        return sum(gpu.free for gpu in found[:devices])
    import psutil

    available = int(psutil.virtual_memory().available)
    return int(min(available, _container_free()))


def _container_free() -> int | float:
    """What the container that we run in still allows; unlimited outside of one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return math.inf
    return math.inf if limit == "max" else max(0, int(limit) - used + (int(cached[1]) if cached else 0))


def check_fits(need: MemoryNeed, free: int, name: str) -> None:
    """Raises ModelUnusable that says what is needed and what is free."""
    if need.total > free:
        raise ModelUnusable(
            f"{name} needs about {_gib(need.total)} of memory (weights {_gib(need.weights)}, context "
            f"{_gib(need.kv_cache)}, engine {_gib(need.overhead)}) and {_gib(free)} are free: choose a smaller model, "
            "or end other programs that use this memory."
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
