"""What Quartet costs in front of a real vLLM: tokens a second through /v1/chat/completions, beside direct.

    python -m bench.gateway_vllm [--streams 1 8 32] [--rounds 5]

A model of some 110 million random parameters, on whatever vLLM runs on here. Direct and through Quartet take turns in
one run; the ratio is the median of those of the turns. On a machine whose speed wanders each turn's is told, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from backends.engines.vllm import VllmEngine, VllmOptions, vllm_python
from backends.types import Progress
from bench.gateway import free_port, process, wait_for
from bench.streams import Load, measure
from tests import checkpoints

NAME = "random"
TOKENS = 64
GOAL = 0.97


def write_model(folder: Path) -> None:
    """Random weights under the tokenizer of the tests' small models."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = checkpoints.never_ends()
    shutil.copytree(small, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    vocabulary = json.loads((small / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=2048, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)


async def started(folder: Path) -> VllmEngine:
    """A vLLM that serves the model, as Quartet itself would start it."""
    flags = ("--max-model-len", "1024", "--dtype", "float32", "--enforce-eager")
    options = VllmOptions(vllm_python(), engine_args=flags, kv_bytes=1)
    engine = VllmEngine(folder, NAME, folder.parent / "vllm.log", options)

    def report(progress: Progress) -> None:
        print(f"  vLLM: {progress.stage}", flush=True)

    await engine.start(report)
    return engine


def compare(direct: Load, through: Load, rounds: int) -> float:
    """Print and give the median of the turns' ratios."""
    turns = [[TOKENS * measure(load).answers_per_second for load in (direct, through)] for _ in range(rounds)]
    ratios = [other / one for one, other in turns]
    one, other = (statistics.median(rates) for rates in zip(*turns, strict=True))
    print(f"{direct.streams} at once: direct {one:,.1f} tokens/s, through Quartet {other:,.1f}", end="")
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f": {statistics.median(ratios):.3f} of direct (turns {each}; goal: {GOAL})", flush=True)
    return statistics.median(ratios)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    given = parser.parse_args()
    if not vllm_python():
        raise SystemExit("vLLM is not installed here: `make vllm` installs it.")
    with tempfile.TemporaryDirectory(prefix="quartet-gateway-") as place:
        folder, ours = Path(place) / "model", free_port()
        await asyncio.to_thread(write_model, folder)
        engine = await started(folder)
        try:
            server = engine._server
            os.environ["QUARTET_ENGINE_KEY"] = server.key
            flags = ["--port", str(ours), "--data-dir", place + "/data", "--engine-url", server.base_url]
            with process("app.py", *flags):
                await asyncio.to_thread(wait_for, f"http://127.0.0.1:{ours}/api/status", '"ready"')
                for streams in given.streams:
                    body = {"model": NAME, "stream": True, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
                    body |= {"messages": [{"role": "user", "content": "Hello"}]}
                    direct = Load(urlsplit(server.base_url).port or 0, streams, 2, body, "[DONE]", 1, server.key)
                    through = Load(ours, streams, 2, body, "[DONE]", 1)
                    await asyncio.to_thread(compare, direct, through, given.rounds)
        finally:
            await engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
