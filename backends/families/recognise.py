"""Says what a checkpoint folder is, from config.json and, where that does not decide, from the tokenizer files.

Loads neither torch nor transformers; reads no weights.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable
from backends.families import baichuan, chatglm, llama2, qwen
from backends.families.sources import read_json
from backends.families.words import Recognised

MARK = "quartet.json"
_MODULES = {"qwen": qwen, "llama": llama2, "chatglm": chatglm, "baichuan": baichuan}
_FAMILY_NAMES = {"qwen": "qwen", "llama": "llama", "llama2": "llama", "chatglm": "chatglm", "glm": "chatglm"}
_FAMILY_NAMES |= {"baichuan": "baichuan"}
KINDS = {
    "qwen": ("qwen1",),
    "llama": ("llama2", "llama3"),
    "chatglm": ("chatglm1", "chatglm2", "chatglm3", "glm4"),
    "baichuan": ("baichuan-7b", "baichuan-13b", "baichuan2-7b", "baichuan2-13b"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A model folder and what it is. `context_length` is in tokens, None when the folder does not say.

    `kind` is the exact one ("qwen1", "qwen2", "chatglm3", "baichuan2-13b", ...); for a converted folder it is the
    kind of the original. `native`: every engine reads the folder as it is.
    """

    folder: Path
    family: str
    kind: str
    architecture: str
    native: bool
    context_length: int | None


def recognise(folder: Path, model_type: str = "") -> Checkpoint:
    """What is in `folder`; `model_type` ("chatglm", or exactly "chatglm3") decides where the files leave it open.

    Raises ModelUnusable with one sentence when this is no model, a damaged one, or one that would go wrong.
    """
    config = _config(folder)
    _must_have_weights(folder)
    mark = read_json(folder / MARK, optional=True)
    if mark:
        return _converted(folder, config, mark)
    name = str(config.get("model_type") or "")
    family = _family(config, name)
    wanted = _wanted_kind(model_type, family, folder.name)
    if family == "other":
        _must_be_known(folder, config, name)
        found = Recognised(name, True, _positive(config.get("max_position_embeddings")))
    else:
        found = _MODULES[family].recognise(folder, config, wanted)
        if found.native:
            _must_be_known(folder, config, name)
    return Checkpoint(folder, family, found.kind, _architecture(config), found.native, found.context_length)


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelUnusable(f"{folder} is not a folder: give the folder of a model, or the id of a model on a hub.")
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json")
    if any(folder.glob("*.pth")):
        raise ModelUnusable(
            f"{folder.name} holds .pth files in Meta's own format: use the same model in the Hugging Face format, "
            "whose name ends in -hf."
        )
    if any(folder.glob("*.gguf")):
        raise ModelUnusable(f"{folder.name} holds GGUF files: use the same model in safetensors format.")
    if (folder / "adapter_config.json").is_file():
        raise ModelUnusable(f"{folder.name} is an adapter without its base model: merge it into the model first.")
    raise ModelUnusable(f"{folder.name} has no config.json, so it is no model folder: give the folder that has one.")


def _must_have_weights(folder: Path) -> None:
    if not any(path.is_file() for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)):
        raise ModelUnusable(
            f"{folder.name} has a config.json but no weight files (*.safetensors or *.bin): download the model again."
        )


def _converted(folder: Path, config: Mapping[str, Any], mark: Mapping[str, Any]) -> Checkpoint:
    kind, length = str(mark.get("kind")), _positive(mark.get("context_length"))
    family = next((name for name, kinds in KINDS.items() if kind in kinds), "")
    if not family:
        raise ModelUnusable(
            f"{MARK} in {folder.name} is damaged: delete this folder, and the model is converted again."
        )
    return Checkpoint(folder, family, kind, _architecture(config), True, length)


def _family(config: Mapping[str, Any], name: str) -> str:
    if name in ("qwen", "llama", "chatglm", "glm", "glm4", "baichuan") or re.fullmatch(r"qwen[23](_moe)?", name):
        return _FAMILY_NAMES.get(re.sub(r"\d.*", "", name), "other")
    return "other"


def _wanted_kind(model_type: str, family: str, folder: str) -> str:
    """The exact kind that was asked for, "" when none was. Raises ModelUnusable when the folder is something else."""
    asked = model_type.strip().lower()
    of_kind = next((name for name, kinds in KINDS.items() if asked in kinds), "")
    if not asked or asked == "auto":
        return ""
    if (of_kind or _FAMILY_NAMES.get(asked, "")) == family:
        return asked if of_kind else ""
    if of_kind or asked in _FAMILY_NAMES:
        raise ModelUnusable(f"{folder} is not a {asked} model by its config.json: leave the model type out.")
    known = ", ".join([*sorted(set(_FAMILY_NAMES)), *(kind for kinds in KINDS.values() for kind in kinds)])
    raise ModelUnusable(f"There is no model type {asked!r}; choose one of {known}.")


def _must_be_known(folder: Path, config: Mapping[str, Any], name: str) -> None:
    """Raises ModelUnusable when transformers has no text model of this model_type. Reads its table, imports nothing."""
    known = _causal_models()
    if name in known:
        return
    if not name:
        raise ModelUnusable(f"config.json in {folder.name} names no model_type: it is damaged, or no language model.")
    if config.get("auto_map"):
        raise ModelUnusable(
            f"{folder.name} is a {name} model that runs only with program code from its folder, which Quartet never "
            "runs: choose a model of another type."
        )
    raise ModelUnusable(f"{folder.name} is a {name} model, which is no chat model that Quartet can serve.")


def _causal_models() -> frozenset[str]:
    spec = importlib.util.find_spec("transformers")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise ModelUnusable("The package transformers is not installed: run make install.")
    table = (Path(places[0]) / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    block = table.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")[2].partition("\n)")[0]
    return frozenset(re.findall(r'\(\s*"([\w.-]+)"\s*,', block))


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
