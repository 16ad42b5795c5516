"""Each reference checkpoint on a real vLLM: what its own endpoints give is what the original code computed.

One start for each family; vLLM on a CPU is enough. Both layouts of weights are the converter's business, tested there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from backends.engines.vllm import VllmEngine, VllmOptions, vllm_python
from backends.families import prepare, recognise
from backends.families.load import load_tokenizer
from backends.families.sources import read_json
from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.shared_data import requires_shared

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("vllm"),
    pytest.mark.timeout(600),
    requires_shared,
]
SERVED = tuple(name for name in NAMES if name != "chatglm1")
LENGTH = 1024
TOKENS = 16


@dataclass(frozen=True)
class Served:
    """A family on vLLM: its own endpoints, what the original computed, and the folder that is served."""

    client: httpx.AsyncClient
    golden: dict[str, Any]
    folder: Path

    @property
    def cases(self) -> list[dict[str, Any]]:
        return [case for case in self.golden["cases"] if len(case.get("prompt_ids", ())) in range(1, LENGTH - TOKENS)]

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The conversations, less those for which the original wants more than messages."""
        chats = [case for case in self.cases if case["kind"] == "chat" and "params" not in case]
        return chats or pytest.skip("a base model: the original has no conversations")

    async def ask(self, route: str, **body: Any) -> dict[str, Any]:
        greedy = {"model": "m", "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
        response = await self.client.post(route, json=greedy | body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def chat(self, messages: Any, **body: Any) -> dict[str, Any]:
        return await self.ask("chat/completions", messages=messages, **body)


@pytest.fixture(scope="module", autouse=True)
def _lean() -> Iterator[None]:
    """Less of what a start takes: the worker in the engine's process, one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SERVED)
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    if not vllm_python():
        pytest.skip("vLLM is not installed here: `make vllm` installs it")
    place = tmp_path_factory.mktemp(request.param)
    checkpoint = recognise(FAMILIES / request.param)
    folder = await asyncio.to_thread(prepare, checkpoint, place, lambda progress: None)
    flags = ("--enforce-eager", "--max-model-len", str(LENGTH), "--dtype", "float32")
    engine = VllmEngine(folder, "m", place / "vllm.log", VllmOptions(vllm_python(), engine_args=flags, kv_bytes=1))
    try:
        await engine.start(lambda progress: None)
        key = {"Authorization": f"Bearer {engine._server.key}"}
        async with httpx.AsyncClient(base_url=engine._server.base_url, headers=key, timeout=120) as client:
            yield Served(client, golden(request.param), folder)
    finally:
        await engine.stop()


async def test_greedy_tokens_are_those_of_the_original(served: Served) -> None:
    async def tokens(case: dict[str, Any]) -> list[int]:
        answer = await served.ask("completions", prompt=case["prompt_ids"], ignore_eos=True)
        return list(answer["choices"][0]["token_ids"])

    found = await asyncio.gather(*(tokens(case) for case in served.cases))
    assert found == [case["greedy_ids"] for case in served.cases]


async def test_a_chat_gets_the_ids_and_the_text_of_the_original(served: Served) -> None:
    chats = [case for case in served.chats if not case.get("user_text_becomes_control_ids")]
    answers = await asyncio.gather(*(served.chat(case["messages"], ignore_eos=True) for case in chats))
    for case, answer in zip(chats, answers, strict=True):
        assert answer["prompt_token_ids"] == case["prompt_ids"], case["id"]
        assert answer["choices"][0]["message"]["content"] == case["greedy_decoded_skip_special"], case["id"]


async def test_a_system_message_works_by_either_name(served: Served) -> None:
    """Also where the original knows none; newer clients call it the developer's."""
    question = {"role": "user", "content": "Why?"}
    prompts = []
    for role in ("system", "developer", ""):
        messages = [{"role": role, "content": "Be kind."}, question] if role else [question]
        prompts.append((await served.chat(messages, max_tokens=1))["prompt_token_ids"])
    assert prompts[0] == prompts[1]
    assert prompts[0] != prompts[2]


async def test_it_stops_where_the_family_stops(served: Served) -> None:
    for case in served.chats:
        ends = [place for place, token in enumerate(case["greedy_ids"]) if token in served.golden["stop_ids"]]
        if not ends or case.get("user_text_becomes_control_ids"):
            continue
        answer = await served.chat(case["messages"])
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == ends[0] + 1
    generation = read_json(served.folder / "generation_config.json")
    ends_at = generation["eos_token_id"]
    assert sorted(served.golden["stop_ids"]) == sorted(ends_at if isinstance(ends_at, list) else [ends_at])


async def test_a_stream_is_the_same_text_without_half_a_character(served: Served) -> None:
    case = next(case for case in served.chats if case["id"] == "zh_single")
    body = {"model": "m", "messages": case["messages"], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    text = ""
    async with served.client.stream("POST", "chat/completions", json=body | {"stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
    whole = case["greedy_decoded_skip_special"]
    assert text in (whole, whole.removesuffix("\ufffd"))


async def test_what_a_user_types_is_no_control_token(served: Served) -> None:
    """On the family's own way to the ids and, with tools, through the chat template."""
    tokenizer = load_tokenizer(served.folder)
    control = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    typed = " ".join(list(control.values())[:12])
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    # A native folder may have no chat template: then there is no other way than the family's own.
    others = [{"tools": [tool], "tool_choice": "none"}] if tokenizer.chat_template else []
    for extra in ({}, *others):
        prompts = []
        for text in ("x", f"x {typed} x"):
            parts = [{"type": "text", "text": text}]
            answer = await served.chat([{"role": "user", "content": parts}], max_tokens=1, **extra)
            prompts.append([index for index in answer["prompt_token_ids"] if index in control])
        assert prompts[0] == prompts[1]


async def test_default_sampling_is_the_familys_own(served: Served) -> None:
    """The same seed draws the same tokens, whether the family's parameters are spelled out or left to the engine."""
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    generation = read_json(served.folder / "generation_config.json")
    own = {name: generation[name] for name in names if name in generation}
    if not own:
        pytest.skip("a base model: its authors give no sampling")
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    case = served.cases[0]
    drawn = []
    for wish in (dict.fromkeys(names), neutral | own, neutral | {"temperature": 2.0}):
        answer = await served.ask("completions", prompt=case["prompt_ids"], ignore_eos=True, seed=11, **wish)
        drawn.append(answer["choices"][0]["token_ids"])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


async def test_a_conversation_that_cannot_be_is_refused_in_a_sentence(served: Served) -> None:
    long = {"model": "m", "messages": [{"role": "user", "content": "word " * 3 * LENGTH}]}
    only_system = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}]}
    answers = [await served.client.post("chat/completions", json=body) for body in (long, only_system)]
    assert [answer.status_code for answer in answers] == [400, 400]
    if not load_tokenizer(served.folder).chat_template:
        # Nobody can write tools into a prompt without a template.
        documents = {"messages": [{"role": "user", "content": "x"}], "documents": [{"title": "a", "text": "b"}]}
        answers.append(await served.client.post("chat/completions", json={"model": "m"} | documents))
        assert "has no chat template" in answers[-1].json()["error"]["message"]
    sentences = [answer.json()["error"]["message"] for answer in answers]
    assert f"and the model takes {LENGTH}; shorten it or start a new one." in sentences[0]
    further = (read_json(served.folder / "config.json").get("qwen1_beyond_seq_length") or {}).get("max_length", 0)
    assert ("On the transformers engine" in sentences[0]) is (further > LENGTH)
    assert "There is nothing to answer" in sentences[1]
