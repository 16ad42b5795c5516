"""Converts an original checkpoint into a folder that engines read. Where that folder goes is not its business."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.errors import StorageFull
from backends.families.conversions import conversion_of
from backends.families.recognise import MARK, Checkpoint
from backends.families.sources import read_json
from backends.families.words import Conversion
from backends.types import Progress

_MARGIN = 64 * 1024 * 1024
# What today's engines know of a generation_config.json; the original's own keys are left out.
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")


def convert(checkpoint: Checkpoint, folder: Path, mark: dict[str, Any], report: Callable[[Progress], None]) -> None:
    """Write the conversion into the empty `folder`, the mark last.

    Nothing is written before every tensor was seen to be there in its right shape. Raises ModelUnusable for a damaged
    checkpoint and StorageFull when the disk has no room.
    """
    from backends.families import weights

    report(Progress("reading the checkpoint"))
    plan = conversion_of(checkpoint)
    shards = weights.shard_paths(checkpoint.folder)
    found = {}
    for path in shards:
        with weights.opened(path) as (names, get):
            for old in names:
                # Only shapes are asked for now: on "meta" nothing is read or computed.
                for name, tensor in plan.rename(old, get(old).to("meta")):
                    found[name] = (tuple(tensor.shape), tensor.dtype, path.name, tensor.numel() * tensor.element_size())
    weights.check({name: entry[:3] for name, entry in found.items()}, _shapes(plan), checkpoint.folder)
    total = sum(entry[3] for entry in found.values())
    free = shutil.disk_usage(folder).free
    if free < total + _MARGIN:
        raise StorageFull(
            f"Converting {checkpoint.folder.name} needs {_gib(total + _MARGIN)} on the disk of the data folder and "
            f"{_gib(free)} are free: free some space, or choose another data folder."
        )
    done = 0

    def wrote(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("converting", done, total))

    placed: dict[str, str] = {}
    kept = [path for path in shards if any(entry[2] == path.name for entry in found.values())]
    for number, path in enumerate(kept, 1):
        target = "model.safetensors" if len(kept) == 1 else f"model-{number:05}-of-{len(kept):05}.safetensors"
        with weights.opened(path) as (names, get):
            tensors = [pair for old in names for pair in plan.rename(old, get(old))]
            weights.write_safetensors(folder / target, tensors, wrote)
            placed |= {name: target for name, _ in tensors}
            del tensors
    if len(kept) > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": placed})
    dtype = str(found[next(name for name in found if "embed" in name)][1]).removeprefix("torch.")
    _write_words(checkpoint, plan, dtype, folder)
    _write_json(folder / MARK, mark | {"kind": checkpoint.kind, "context_length": checkpoint.context_length})


def _shapes(plan: Conversion) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the class it becomes, without room for any."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name, config = plan.config["architectures"][0], dict(plan.config)
    with torch.device("meta"):
        if name == "BaichuanAlibiForCausalLM":
            from backends.families.alibi import BaichuanAlibiConfig
            from backends.families.baichuan_model import BaichuanAlibiForCausalLM

            model: Any = BaichuanAlibiForCausalLM(BaichuanAlibiConfig(**config))
        elif name == "ChatGLMv1ForCausalLM":
            from backends.families.chatglm_model import ChatGLMv1Config, ChatGLMv1ForCausalLM

            model = ChatGLMv1ForCausalLM(ChatGLMv1Config(**config))
        else:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)
    return shapes


def _write_words(checkpoint: Checkpoint, plan: Conversion, dtype: str, folder: Path) -> None:
    """config.json, generation_config.json and the tokenizer files."""
    from backends.families.load import wrapped

    _write_json(folder / "config.json", {**plan.config, "dtype": dtype})
    own = read_json(checkpoint.folder / "generation_config.json", optional=True)
    generation = {**plan.generation, **{key: own[key] for key in _SAMPLING if own.get(key) is not None}}
    _write_json(folder / "generation_config.json", generation)
    tokenizer = wrapped(checkpoint.kind, plan.vocabulary(), plan.chat_template, plan.model_max_length)
    tokenizer.save_pretrained(str(folder))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
