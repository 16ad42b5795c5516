"""Knows a checkpoint by its `config.json`, never by the name of its folder. Reads no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable

FAMILIES = ("qwen", "llama", "chatglm", "baichuan")

# model_type of config.json -> (family, kind), for what transformers and vLLM read as it is.
_NATIVE = {
    "qwen2": ("qwen", "qwen2"),
    "qwen2_moe": ("qwen", "qwen2-moe"),
    "qwen3": ("qwen", "qwen3"),
    "qwen3_moe": ("qwen", "qwen3-moe"),
    "llama": ("llama", "llama"),
    "glm": ("chatglm", "glm"),
    "glm4": ("chatglm", "glm4"),
}
# The classes that these checkpoints shipped as code of their own.
_ORIGINAL = {"qwen": ("qwen", "Qwen-1"), "chatglm": ("chatglm", "ChatGLM"), "baichuan": ("baichuan", "Baichuan")}
_ALIASES = {"llama2": "llama", "llama3": "llama", "glm": "chatglm"}
_CONTEXT_KEYS = ("max_position_embeddings", "seq_length", "model_max_length", "n_positions")
_MOST_CONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a model in it. `family` is one of the four or "other"; `kind` is the exact one, as "qwen3".

    `native` says that transformers and vLLM read it as it is. `context_length` is in tokens.
    """

    folder: Path
    family: str
    kind: str
    architecture: str
    native: bool
    context_length: int | None


def recognise(folder: Path, model_type: str = "") -> Checkpoint:
    """What the checkpoint in `folder` is; `model_type` (a family or an exact kind) is believed where it is given.

    Raises ModelUnusable with what is missing or wrong, and what to do.
    """
    config = _read_config(folder)
    _refuse_without_weights(folder)
    found = str(config.get("model_type") or "").lower()
    architectures = config.get("architectures") or [""]
    architecture = str(architectures[0])
    context = next((int(config[key]) for key in _CONTEXT_KEYS if isinstance(config.get(key), int)), None)
    family, kind, native = _kind(found, config)
    if model_type:
        family, kind = _believed(model_type, family, kind)
    if not native:
        raise ModelUnusable(
            f"{folder.name} is an original {_ORIGINAL[found][1]} checkpoint, which runs only with the code it ships; "
            "this version of Quartet runs no such code. Take a newer model of the family that says so in its name "
            "(Qwen3, Qwen2.5, glm-4-9b-chat-hf)."
        )
    return Checkpoint(folder, family, kind, architecture, native, context)


def _kind(found: str, config: Mapping[str, Any]) -> tuple[str, str, bool]:
    """(family, kind, native) of a config.json."""
    if found in _ORIGINAL:
        return _ORIGINAL[found][0], found, False
    if found in _NATIVE:
        return *_NATIVE[found], True
    if not found:
        raise ModelUnusable('config.json does not say what the model is (no "model_type"); name it with --model-type.')
    if config.get("auto_map"):
        raise ModelUnusable(
            f'Models of type "{found}" run only with code that the checkpoint brings along, and Quartet runs no such '
            "code; take a model that transformers knows by itself."
        )
    return "other", found, True


def _believed(model_type: str, family: str, kind: str) -> tuple[str, str]:
    """(family, kind) as the operator says. An exact kind replaces the recognised one, a family name keeps it."""
    asked = model_type.lower()
    named = _ALIASES.get(asked, asked)
    if named in FAMILIES:
        return named, kind
    of_kind = {known: member for member, known in _NATIVE.values()}
    if asked in of_kind:
        return of_kind[asked], asked
    raise ModelUnusable(
        f'The model type "{model_type}" is not known; it is one of {", ".join((*FAMILIES, *of_kind))}, or leave it out.'
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelUnusable(f"There is no folder {folder}; give the folder of a model or the id of one on a hub.")
    path = folder / "config.json"
    if not path.is_file():
        if any(folder.glob("*.gguf")) or any(folder.glob("*.pth")):
            raise ModelUnusable(
                f"{folder.name} holds weights in another format (.gguf or .pth); take the model in the format of "
                "Hugging Face, a folder with config.json and *.safetensors."
            )
        raise ModelUnusable(f"{folder.name} is no model: it has no config.json. Give the folder that has one.")
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise ValueError("far too large")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 - joins the parse errors
    except (ValueError, OSError) as error:
        raise ModelUnusable(f"config.json of {folder.name} cannot be read ({error}); download it again.") from error
    return config


def _refuse_without_weights(folder: Path) -> None:
    """An index names its shards: each must be there, and not be empty."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            try:
                shards = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, OSError) as error:
                raise ModelUnusable(f"{index} of {folder.name} cannot be read; download it again.") from error
            missing = [name for name in shards if not _has_bytes(folder / Path(str(name)).name)]
            if missing:
                raise ModelUnusable(
                    f"{folder.name} is not complete: {missing[0]}"
                    + (f" and {len(missing) - 1} more files are" if len(missing) > 1 else " is")
                    + " missing; download the model again."
                )
            return
    if not any(
        _has_bytes(path) for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)
    ):
        raise ModelUnusable(
            f"{folder.name} has a config.json but no weights (*.safetensors or pytorch_model*.bin); "
            "download the model again."
        )


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
