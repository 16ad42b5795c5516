"""Both ways of generating give what transformers' own generate() gives, for every architecture; both can be left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.engines.transformers_server.batching import Batcher
from backends.engines.transformers_server.generation import GenerationFailed, Generator
from backends.engines.transformers_server.one_by_one import OneByOne
from backends.engines.transformers_server.placement import CacheSize
from backends.engines.transformers_server.sampling import Drawer, Sampling
from backends.engines.transformers_server.service import generator_for
from backends.families import load_pretrained, prompt_ids
from tests import checkpoints
from tests.checkpoints import KINDS, QUESTIONS

GREEDY = Sampling(do_sample=False, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, seed=None)
SMALL = CacheSize(blocks=64, batch_tokens=96, requests=16)


@pytest.fixture
def batcher() -> Iterator[Callable[..., Batcher]]:
    """A function that makes a Batcher; its thread ends with the test."""
    made: list[Batcher] = []

    def make(model: Any, size: CacheSize = SMALL) -> Batcher:
        made.append(Batcher(model, size))
        return made[-1]

    yield make
    for one in made:
        one._manager.stop(block=True, timeout=20, hard_stop=True)


def model_in(folder: Path) -> tuple[Any, Any]:
    return load_pretrained(folder, torch.float32)


def expected(model: Any, prompt: list[int], most: int, **how: Any) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, **how)
    return list(whole[0, len(prompt) :].tolist())


async def made(generator: Generator, prompt: list[int], most: int, sampling: Sampling = GREEDY) -> list[int]:
    return [token async for ids in generator.generate(prompt, most, (2,), sampling) for token in ids]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_gives_what_generate_gives(kind: str, batcher: Callable[..., Batcher]) -> None:
    model, _ = model_in(checkpoints.untrained(kind))
    prompts = [[5 + i, *range(10, 10 + 40 * i)] for i in range(4)]  # the last ones are read in several steps
    alone = [expected(model, prompt, 12, do_sample=False, eos_token_id=2, pad_token_id=0) for prompt in prompts]
    generator = batcher(model)
    assert await asyncio.gather(*(made(generator, prompt, 12) for prompt in prompts)) == alone


async def test_a_penalty_works_as_in_generate(batcher: Callable[..., Batcher]) -> None:
    model, _ = model_in(checkpoints.untrained("Qwen2ForCausalLM"))
    prompt = list(range(20, 60))
    alone = expected(model, prompt, 16, do_sample=False, eos_token_id=2, pad_token_id=0, repetition_penalty=1.5)
    wanted = Sampling(do_sample=False, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.5, seed=None)
    assert await made(batcher(model), prompt, 16, wanted) == alone
    assert await made(OneByOne(model), prompt, 16, wanted) == alone


async def test_both_ways_draw_the_same_with_a_seed(batcher: Callable[..., Batcher]) -> None:
    model, _ = model_in(checkpoints.untrained("LlamaForCausalLM"))
    prompt, hot = list(range(20, 40)), Sampling(True, 1.5, 50, 0.95, 1.1, seed=11)
    others = [Sampling(True, 2.0, 0, 1.0, 1.0, seed=None) for _ in range(5)]
    together = batcher(model)
    first, *_ = await asyncio.gather(*(made(together, prompt, 20, how) for how in (hot, *others)))
    assert first == await made(together, prompt, 20, hot) == await made(OneByOne(model), prompt, 20, hot)
    assert first != await made(together, prompt, 20, Sampling(True, 1.5, 50, 0.95, 1.1, seed=12))


async def test_a_full_cache_makes_requests_wait_and_changes_no_answer(batcher: Callable[..., Batcher]) -> None:
    """Eight requests that together need more than the cache has: some are moved out and come back."""
    model, _ = model_in(checkpoints.untrained("Qwen2ForCausalLM"))
    prompts = [[7 + i, *range(30, 60)] for i in range(8)]
    hot = Sampling(True, 1.2, 0, 1.0, 1.05, seed=3)
    alone = [await made(OneByOne(model), prompt, 60, hot) for prompt in prompts]
    generator = batcher(model, CacheSize(blocks=10, batch_tokens=64, requests=16))
    assert await asyncio.gather(*(made(generator, prompt, 60, hot) for prompt in prompts)) == alone


@pytest.mark.parametrize("way", ["batch", "one by one"])
async def test_it_knows_its_answers_and_stops_by_itself(way: str, batcher: Callable[..., Batcher]) -> None:
    model, tokenizer = model_in(checkpoints.knows_by_heart())
    generator: Generator = batcher(model) if way == "batch" else OneByOne(model)

    async def answer(question: str) -> str:
        ids = await made(generator, prompt_ids(tokenizer, [{"role": "user", "content": question}]), 60)
        assert ids[-1] == 2
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    assert await asyncio.gather(*map(answer, QUESTIONS)) == list(QUESTIONS.values())
    assert generator.in_flight == 0


@pytest.mark.parametrize("way", ["batch", "one by one"])
async def test_a_request_that_is_left_makes_no_more_tokens(way: str, batcher: Callable[..., Batcher]) -> None:
    model, _ = model_in(checkpoints.never_ends())
    generator: Generator = batcher(model) if way == "batch" else OneByOne(model)
    async with aclosing(generator.generate([1, 2, 3], 1500, (), GREEDY)) as steps:
        await _some(steps, 5)
    at_once = generator.generated_tokens
    await asyncio.sleep(1.0)
    after = generator.generated_tokens
    await asyncio.sleep(0.5)
    assert after - at_once <= 2
    assert (generator.generated_tokens, generator.in_flight) == (after, 0)
    # And the next one is served at once.
    assert len(await made(generator, [1, 2, 3], 4)) == 4


async def _some(steps: AsyncIterator[list[int]], count: int) -> None:
    for _ in range(count):
        await anext(steps)


async def test_when_the_loop_of_the_library_ends_all_streams_end_with_the_reason(
    batcher: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = model_in(checkpoints.never_ends())
    generator = batcher(model)
    streams = [generator.generate([1, 2, 3], 1500, (), GREEDY) for _ in range(3)]
    for stream in streams:
        await anext(stream)

    def broken(self: Drawer, context: Any, scores: Any) -> torch.Tensor:
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(Drawer, "draw", broken)
    hot = Sampling(True, 1.0, 0, 1.0, 1.0, seed=None)
    streams.append(generator.generate([1, 2, 3], 1500, (), hot))

    async def reason(stream: AsyncIterator[list[int]]) -> str:
        try:
            async for _ in stream:
                pass
        except GenerationFailed as error:
            return str(error)
        return "it went on to its end"

    assert await asyncio.gather(*map(reason, streams)) == ["the device was lost"] * 4
    await asyncio.to_thread(generator.wait)
    assert generator.failure == "the device was lost"
    with pytest.raises(GenerationFailed, match="the device was lost"):
        await made(generator, [1, 2, 3], 5)


async def test_one_by_one_an_error_ends_its_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = model_in(checkpoints.untrained("Qwen2ForCausalLM"))
    generator = OneByOne(model)
    with pytest.raises(GenerationFailed):
        await made(generator, [10**9], 5)
    assert len(await made(generator, [1, 2, 3], 5)) == 5


def _baichuan() -> Any:
    from backends.families.alibi import BaichuanAlibiConfig
    from backends.families.baichuan_model import BaichuanAlibiForCausalLM

    return BaichuanAlibiForCausalLM(
        BaichuanAlibiConfig(
            vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        )
    )


def _chatglm() -> Any:
    from backends.families.chatglm_model import ChatGLMv1Config, ChatGLMv1ForCausalLM

    return ChatGLMv1ForCausalLM(
        ChatGLMv1Config(
            **{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "layer_norm_eps": 1e-5, "tie_word_embeddings": False},
            **{"bos_token_id": 10, "eos_token_id": 2, "gmask_token_id": 11, "mask_token_id": 12, "pad_token_id": 3},
        )
    )


@pytest.mark.parametrize("make", [_baichuan, _chatglm])
async def test_models_with_masks_of_their_own_are_run_one_by_one(make: Callable[[], Any]) -> None:
    torch.manual_seed(6)
    model = make().eval()
    prompt = [*range(20, 40), 11, 10]
    alone = expected(model, prompt, 10, do_sample=False, eos_token_id=2, pad_token_id=3)
    generator, context = generator_for(model, 512)
    assert isinstance(generator, OneByOne)
    assert context == 512
    assert await asyncio.gather(*(made(generator, prompt, 10) for _ in range(3))) == [alone] * 3
    assert len(set(alone)) > 1
