"""What vLLM needs to serve the families: their prompts, their text, and the class of the ALiBi models.

vLLM finds `register` in each of its processes by the entry point in `entry/`, a folder that backends/engines/vllm.py
puts on PYTHONPATH beside the root of the repository. Only vLLM's processes import what is in here.
"""

from __future__ import annotations

import logging

# The release whose inner parts this is written against; requirements-vllm*.txt pin it.
WRITTEN_FOR = "0.32"
TOKENIZER_MODE = "quartet"


def register() -> None:
    """Make the families known to this process. Raises RuntimeError, one sentence, for a vLLM that this does not fit."""
    from vllm import __version__

    said = f"Quartet's plugin is written for vLLM {WRITTEN_FOR}"
    if not __version__.startswith(f"{WRITTEN_FOR}."):
        logging.getLogger("vllm").warning("%s; this is vLLM %s, with which it was not tried.", said, __version__)
    try:
        _register()
    except (ImportError, AttributeError, TypeError) as error:
        raise RuntimeError(f"{said} and does not fit vLLM {__version__}: {error}") from error


def _register() -> None:
    from transformers import AutoConfig
    from vllm.model_executor.models import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from backends.families.alibi import BaichuanAlibiConfig

    AutoConfig.register(BaichuanAlibiConfig.model_type, BaichuanAlibiConfig, exist_ok=True)
    # By name: a process imports only what it uses.
    ModelRegistry.register_model("BaichuanAlibiForCausalLM", f"{__name__}.alibi_model:BaichuanAlibiForCausalLM")
    if TOKENIZER_MODE not in RENDERER_REGISTRY.renderers:
        RENDERER_REGISTRY.register(TOKENIZER_MODE, f"{__name__}.renderer", "FamilyRenderer")
        TokenizerRegistry.register(TOKENIZER_MODE, f"{__name__}.renderer", "FamilyTokenizer")
