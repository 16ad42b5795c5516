"""The reference checkpoints beside the repository: where they are, what the originals computed, other layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.shared_data import SHARED

FAMILIES = SHARED / "families"
NAMES = (
    "qwen1",
    "llama2",
    "chatglm1",
    "chatglm2",
    "chatglm3",
    "glm4",
    "baichuan-7b",
    "baichuan-13b",
    "baichuan2-7b",
    "baichuan2-13b",
)
CONVERTED = tuple(name for name in NAMES if name != "llama2")


def golden(name: str) -> dict[str, Any]:
    """What the original code computed."""
    return json.loads((FAMILIES / name / "golden.json").read_text(encoding="utf-8"))


def copy_of(name: str, folder: Path) -> Path:
    """A writable copy under the same name, without the golden values."""
    target = folder / name
    shutil.copytree(FAMILIES / name, target, ignore=shutil.ignore_patterns("golden.*"))
    target.chmod(0o755)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; a value of None takes the key out."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder in whichever layout it has."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for path in sorted(folder.glob("*.bin")):
        tensors |= torch.load(path, weights_only=True)
    return tensors


def rewrite(folder: Path, suffix: str, shards: int) -> None:
    """Store the weights of a folder the other way: "safetensors" or "bin", in so many files."""
    tensors = weights_of(folder)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.index.json")]:
        path.unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, placed = list(tensors), {}
    for number in range(shards):
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}"
        part = {name: tensors[name].contiguous().clone() for name in names[number::shards]}
        if suffix == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        placed |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
