"""Where a model is put and how large its attention cache is: device, number type, blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from backends.hardware import kv_bytes_per_token, memory_needed

PAGE_TOKENS = 32
# On a CPU: the prompt is read in pieces of this many tokens, and the cache holds at most this many full contexts.
_CPU_BATCH_TOKENS = 512
_CPU_CONTEXTS = 4
_CPU_CACHE_SHARE = 0.3
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CacheSize:
    """Blocks of PAGE_TOKENS tokens and tokens per step; None leaves both to the library, which measures the GPU."""

    blocks: int | None
    batch_tokens: int | None

    @property
    def tokens(self) -> int | None:
        """Tokens the cache holds, of all requests together."""
        return None if self.blocks is None else self.blocks * PAGE_TOKENS


def device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype(folder: Path, precision: str) -> Any:
    """The number type to load in: what was asked for, or with "auto" the checkpoint's own.

    On a CPU "auto" is float32 where that fits: half precision is computed there many times slower.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if device() == "cpu" and memory_needed(folder, "float32").total < psutil.virtual_memory().available // 2:
        return torch.float32
    return "auto"


def cache_size(config: Any, context_length: int, element_bytes: int) -> CacheSize:
    """How large the cache is: on a CPU some full contexts, within a share of the free memory."""
    if device() == "cuda":
        return CacheSize(None, None)
    per_token = kv_bytes_per_token(config.to_dict()) * element_bytes // 2
    affordable = int(psutil.virtual_memory().available * _CPU_CACHE_SHARE) // max(1, per_token)
    tokens = max(PAGE_TOKENS * 4, min(affordable, context_length * _CPU_CONTEXTS))
    return CacheSize(tokens // PAGE_TOKENS, _CPU_BATCH_TOKENS)
