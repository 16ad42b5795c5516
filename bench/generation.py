"""How fast the transformers engine generates: the library's continuous batching beside plain `generate()`.

    python -m bench.generation [--streams 1 8] [--tokens 64]

A model of some 50 million random parameters, in the number type the engine would take here. Continuous batching is
what the engine uses wherever the library can run the model with it; one after the other is for the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import aclosing
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from backends.engines.transformers_server.batching import Batcher
from backends.engines.transformers_server.generation import Generator
from backends.engines.transformers_server.one_by_one import OneByOne
from backends.engines.transformers_server.placement import cache_size, device
from backends.engines.transformers_server.sampling import Sampling

CONTEXT, PROMPT = 2048, 64


def model() -> Any:
    """Random weights; the same ones each time."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=CONTEXT, tie_word_embeddings=False,
    )  # fmt: skip
    dtype = torch.float32 if device() == "cpu" else torch.bfloat16
    return Qwen2ForCausalLM(config).to(device(), dtype).eval()


async def rate(generator: Generator, streams: int, tokens: int, sampling: Sampling) -> float:
    """Tokens a second of so many answers at once."""

    async def answer(number: int) -> None:
        prompt = [100 + (number * 97 + at) % 30_000 for at in range(PROMPT)]
        async with aclosing(generator.generate(prompt, tokens, (), sampling)) as steps:
            async for _ in steps:
                pass

    began = time.perf_counter()
    await asyncio.gather(*(answer(number) for number in range(streams)))
    return streams * tokens / (time.perf_counter() - began)


def plain_rate(network: Any, streams: int, tokens: int) -> float:
    """The same by `generate()` alone, one prompt after the other."""
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0)
    began = time.perf_counter()
    with torch.inference_mode():
        for number in range(streams):
            prompt = torch.tensor([[100 + (number * 97 + at) % 30_000 for at in range(PROMPT)]], device=network.device)
            network.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    return streams * tokens / (time.perf_counter() - began)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    asked = parser.parse_args()
    network = model()
    parameters = sum(weight.numel() for weight in network.parameters())
    print(f"{parameters / 1e6:.0f} million parameters, {network.dtype}, {device()}; tokens a second")
    size = cache_size(network.config, CONTEXT, network.dtype)
    one_by_one = OneByOne(network)
    greedy = Sampling(False, 1.0, 0, 1.0, 1.0, None)
    drawn = Sampling(True, 0.8, 50, 0.9, 1.1, 0)
    await rate(one_by_one, 1, 8, greedy)  # warm
    for streams in asked.streams:
        plain = await asyncio.to_thread(plain_rate, network, streams, asked.tokens)
        single = await rate(one_by_one, streams, asked.tokens, greedy)
        print(f"{streams:4} streams   generate() {plain:7.1f}   one after the other {single:7.1f}", flush=True)
    batcher = Batcher(network, size)  # last: from now on the model's attention is the paged one
    await rate(batcher, 1, 8, greedy)
    for streams in asked.streams:
        fast = await rate(batcher, streams, asked.tokens, greedy)
        sampled = await rate(batcher, streams, asked.tokens, drawn)
        print(f"{streams:4} streams   batched, greedy {fast:7.1f}   batched, sampled {sampled:7.1f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
