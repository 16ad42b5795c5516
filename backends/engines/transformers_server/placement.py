"""Where a model is put and how large its attention cache is: device, number type, blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from backends.hardware import kv_bytes_per_token, memory_needed

PAGE_TOKENS = 32
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class _Limits:
    """Of one kind of device: tokens per step, requests at once, full contexts in the cache, share of free memory."""

    batch_tokens: int
    requests: int
    contexts: int
    share: float


# A GPU is left the rest for the embedding model and for what steps need; on a CPU more at once is no faster.
_LIMITS = {"cuda": _Limits(2048, 256, 16, 0.8), "cpu": _Limits(512, 32, 4, 0.3)}


@dataclass(frozen=True)
class CacheSize:
    """Blocks of PAGE_TOKENS tokens, tokens per step, requests per step."""

    blocks: int
    batch_tokens: int
    requests: int

    @property
    def tokens(self) -> int:
        """Tokens the cache holds, of all requests together."""
        return self.blocks * PAGE_TOKENS


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


def cache_size(config: Any, context_length: int, dtype: torch.dtype) -> CacheSize:
    """How large the cache is: some full contexts, within a share of the memory that is free beside the weights."""
    limits = _LIMITS[device()]
    per_token = kv_bytes_per_token(config.to_dict()) * dtype.itemsize // 2
    per_token += limits.batch_tokens * dtype.itemsize  # the column of the attention mask
    scores = limits.requests * int(config.vocab_size) * torch.float32.itemsize * 3
    affordable = int(_free() * limits.share) - scores
    tokens = min(affordable // per_token, context_length * limits.contexts)
    # Too little even for a short chat: the library says so when it makes the cache.
    return CacheSize(max(4, tokens // PAGE_TOKENS), limits.batch_tokens, limits.requests)


def _free() -> int:
    if device() == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
