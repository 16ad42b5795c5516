"""Baichuan's ALiBi models cut over two processes of a real vLLM (tensor parallel) compute what one process computes.

The heads are six: no power of two, so the slopes of the second half are not those of a model with three.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import httpx
import pytest

from backends.engines.vllm import VllmEngine, VllmOptions, vllm_python
from backends.families import load_pretrained, prepare, recognise
from tests.backends.families.reference import FAMILIES
from tests.shared_data import requires_shared

PROMPT = list(range(200, 300))
TOKENS = 16


def six_heads(folder: Path) -> Path:
    """A model with random weights under the words of the reference checkpoint."""
    import torch

    from backends.families.alibi import BaichuanAlibiConfig
    from backends.families.baichuan_model import BaichuanAlibiForCausalLM

    made = folder / "six-heads"
    shutil.copytree(prepare(recognise(FAMILIES / "baichuan-13b"), folder, lambda progress: None), made)
    for file in made.glob("*.safetensors*"):
        file.unlink()
    config = json.loads((made / "config.json").read_text())
    config |= {"hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 6, "dtype": "float32"}
    (made / "config.json").write_text(json.dumps(config))
    torch.manual_seed(5)
    model = BaichuanAlibiForCausalLM(BaichuanAlibiConfig(**config)).float()
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(made)
    (made / "config.json").write_text(json.dumps(config))
    return made


def expected(folder: Path) -> list[int]:
    """What the class for transformers generates."""
    import torch

    model, _ = load_pretrained(folder, dtype="float32")
    made = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0, eos_token_id=None
    )
    return [int(token) for token in made[0, len(PROMPT) :]]


@requires_shared
@pytest.mark.xdist_group("vllm")
@pytest.mark.timeout(600)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each process of vLLM on a CPU wants a core of its own")
async def test_two_processes_compute_what_one_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vllm_python():
        pytest.skip("vLLM is not installed here: `make vllm` installs it")
    cores = sorted(os.sched_getaffinity(0))
    # vLLM gives each process a NUMA node unless it is told which core is whose.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    folder = await asyncio.to_thread(six_heads, tmp_path)
    flags = ("--enforce-eager", "--max-model-len", "256", "--dtype", "float32", "--tensor-parallel-size", "2")
    log = tmp_path / "vllm.log"
    engine = VllmEngine(folder, "m", log, VllmOptions(vllm_python(), engine_args=flags, kv_bytes=1))
    try:
        await engine.start(lambda progress: None)
        key = {"Authorization": f"Bearer {engine._server.key}"}
        async with httpx.AsyncClient(base_url=engine._server.base_url, headers=key, timeout=120) as client:
            body = {"model": "m", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
            answer = await client.post("completions", json=body | {"return_token_ids": True})
        assert answer.json()["choices"][0]["token_ids"] == await asyncio.to_thread(expected, folder)
    finally:
        await engine.stop()
