"""Where a model goes on a machine without a GPU: which number type, and how large an attention cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from backends.engines.transformers_server import placement
from backends.hardware import GIB
from tests import checkpoints

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")


@pytest.fixture
def model() -> Path:
    return checkpoints.untrained("Qwen2ForCausalLM")


def free(monkeypatch: pytest.MonkeyPatch, amount: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=amount))


def size_of(context: int, dtype: torch.dtype = torch.float32) -> placement.CacheSize:
    """For a model whose tokens take 1 MiB of cache each in float32."""
    from transformers import Qwen2Config

    config = Qwen2Config(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32)
    return placement.cache_size(config, context, dtype)


def test_on_a_cpu_it_computes_in_float32_where_that_fits(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 64 * GIB)
    assert placement.dtype(model, "auto") is torch.float32
    free(monkeypatch, GIB // 2)
    assert placement.dtype(model, "auto") == "auto"
    assert placement.dtype(model, "bfloat16") is torch.bfloat16


def test_the_cache_holds_some_contexts_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1_000 * GIB)
    assert size_of(2048).tokens == 4 * 2048


def test_the_cache_takes_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 100 * GIB)
    full, half = size_of(1_000_000), size_of(1_000_000, torch.bfloat16)
    assert 0.25 * 100 * 1024 < full.tokens < 0.3 * 100 * 1024
    assert half.tokens == pytest.approx(2 * full.tokens, rel=0.02)


def test_there_is_always_a_cache_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    assert size_of(2048).tokens == 4 * placement.PAGE_TOKENS
