"""Finds how an original checkpoint is converted. Knows the family modules; reads no weights."""

from __future__ import annotations

from backends.families import baichuan, chatglm, qwen
from backends.families.recognise import Checkpoint
from backends.families.sources import read_json
from backends.families.words import Conversion


def conversion_of(checkpoint: Checkpoint) -> Conversion:
    """Raises ModelUnusable when config.json or a tokenizer file is missing, incomplete or damaged."""
    module = {"qwen": qwen, "chatglm": chatglm, "baichuan": baichuan}[checkpoint.family]
    config = read_json(checkpoint.folder / "config.json")
    plan: Conversion = module.conversion(checkpoint.folder, config, checkpoint.kind)
    return plan
