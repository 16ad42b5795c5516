"""Reads the weight files of a checkpoint, tensor by tensor, and writes safetensors. Knows no family.

Memory stays far below one shard: files are mapped, and a tensor is written from where it lies.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from backends.errors import ModelUnusable

_CHUNK = 16 * 1024 * 1024
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
Shard = list[tuple[str, torch.Tensor]]


def shard_paths(folder: Path) -> list[Path]:
    """The weight files in order: those of an index, or the single one. Raises ModelUnusable when one is missing."""
    for index_name, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        index, only = folder / index_name, folder / single
        if index.is_file():
            return _indexed(index)
        if only.is_file():
            return [only]
    raise ModelUnusable(
        f"{folder.name} has weight files but neither an index nor a model.safetensors or pytorch_model.bin: "
        "download the model again."
    )


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{index.name} in {index.parent.name} is damaged: download this file again.") from error
    paths = [index.parent / name for name in names]
    for path in paths:
        if Path(path.name) != Path(path).relative_to(index.parent):
            raise ModelUnusable(f"{index.name} names a file outside of {index.parent.name}: download the model again.")
        if not path.is_file():
            raise ModelUnusable(f"The weight file {path.name} is missing in {index.parent.name}: download it again.")
    return paths


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """The names in a weight file and how to get a tensor. Raises ModelUnusable when the file is damaged or unsafe."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                yield list(file.keys()), file.get_tensor
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None and path.is_file():
                raise
            raise _damaged(path) from error
        return
    tensors = _load_bin(path)
    yield list(tensors), tensors.__getitem__


def _load_bin(path: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # Files of the oldest releases cannot be mapped.
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if "nsupported global" in str(error) or "nsupported class" in str(error):
            raise ModelUnusable(
                f"{path.name} in {path.parent.name} holds more than tensors and was not opened: "
                "use the model's safetensors files."
            ) from error
        raise _damaged(path) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelUnusable(f"{path.name} in {path.parent.name} is no file of weights: download the model again.")
    return found


def _damaged(path: Path) -> ModelUnusable:
    return ModelUnusable(f"The weight file {path.name} in {path.parent.name} is damaged or cut off: download it again.")


def write_safetensors(path: Path, tensors: Sequence[tuple[str, torch.Tensor]], wrote: Callable[[int], None]) -> None:
    """Write one file, calling `wrote` with the number of bytes as they go. Tensors may be views of mapped files."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors:
            _write(file, tensor, wrote)
        # Once the folder has its name it must be whole, also after a power cut.
        file.flush()
        os.fsync(file.fileno())


def _write(file: IO[bytes], tensor: torch.Tensor, wrote: Callable[[int], None]) -> None:
    data = memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    for start in range(0, len(data), _CHUNK):
        wrote(file.write(data[start : start + _CHUNK]))


def check(
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype, str]], wanted: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Raises ModelUnusable for the first tensor (shape, dtype, file) that is missing, unknown or of a wrong shape."""
    for name, (shape, dtype, file) in found.items():
        if name not in wanted:
            raise ModelUnusable(
                f"{file} in {folder.name} has a tensor {name} that this model has no place for: "
                "use the original files of the model."
            )
        if shape != wanted[name]:
            raise ModelUnusable(
                f"{file} in {folder.name} does not fit config.json: {name} has the shape {list(shape)} and should have "
                f"{list(wanted[name])}: download config.json and this file again."
            )
        if dtype not in _DTYPES:
            raise ModelUnusable(f"{file} in {folder.name} holds quantised weights: use the original model.")
    if missing := sorted(set(wanted) - set(found)):
        raise ModelUnusable(
            f"The weight files of {folder.name} lack {len(missing)} of {len(wanted)} tensors, {missing[0]} for one: "
            "download the weight files again."
        )
