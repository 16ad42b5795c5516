"""Switching while people chat: 16 clients ask without pause while the model is switched, between engines too.

    python -m bench.switching [--switches 20] [--clients 16]

The models are the tiny ones of the tests, which know different answers by heart: so an answer tells who gave it. They
are served by the transformers engine, by a server elsewhere, and by vLLM where it is installed. Lost is a question
that got no answer, wrong an answer that is cut or not of a model that was in service while it was given; an engine is
left over when its process is still there some seconds after its last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backends.engines.transformers import TransformersEngine
from backends.engines.vllm import vllm_python
from backends.errors import QuartetError
from backends.models import EngineSettings, ModelManager, ModelSpec
from backends.types import Message, SamplingParams
from tests import checkpoints

QUESTION = "Who keeps the bees?"
VLLM_ARGS = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024")


@dataclass(frozen=True)
class Served:
    """A model on an engine, and what it answers."""

    spec: ModelSpec
    answer: str


@dataclass
class Outcome:
    """What came of it; times in seconds."""

    answers: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    switches: list[float] = field(default_factory=list)


async def run(manager: ModelManager, models: Sequence[Served], switches: int, clients: int) -> Outcome:
    """Load the first of `models`, set the clients going, and go round the models."""
    outcome, over = Outcome(), asyncio.Event()
    await manager.load(models[0].spec)
    serving = [models[0].answer]  # of every model that was put into service, in order
    settled = [0]  # the last entry is the place in `serving` of the newest one that was ready
    asking = [asyncio.create_task(_ask(manager, serving, settled, outcome, over)) for _ in range(clients)]
    for number, model in enumerate(itertools.islice(itertools.cycle(models), 1, switches + 1), 1):
        began = time.perf_counter()
        serving.append(model.answer)
        await manager.load(model.spec)
        settled.append(number)
        outcome.switches.append(time.perf_counter() - began)
        await asyncio.sleep(0.5)
        outcome.left_over += [f"after switch {number}: {name}" for name in await _left_over()]
    over.set()
    await asyncio.gather(*asking)
    return outcome


async def _ask(
    manager: ModelManager, serving: list[str], settled: list[int], outcome: Outcome, over: asyncio.Event
) -> None:
    while not over.is_set():
        first = settled[-1]
        try:
            stream = manager.stream([Message("user", QUESTION)], SamplingParams(do_sample=False, max_new_tokens=40))
            answer = "".join([delta.text async for delta in stream]).strip()
        except QuartetError as error:
            outcome.lost.append(error.message)
            continue
        # Whoever was in service when it was asked, or came into service before the answer began.
        if answer in serving[first:]:
            outcome.answers += 1
        else:
            outcome.wrong.append(answer)


async def _left_over() -> list[str]:
    """Engines of ours beyond the one in service, after they had time to end."""
    for _ in range(200):
        running = _engines()
        if len(running) <= 1:
            return []
        await asyncio.sleep(0.1)
    return running[1:]


def _engines() -> list[str]:
    """One entry for each engine process below this one that the manager has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if ("transformers_server" in command or "api_server" in command) and "elsewhere" not in command:
            found.append(command[-80:])
    return found


@asynccontextmanager
async def elsewhere(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A server that somebody else runs: its URL and key."""
    engine = TransformersEngine(await asyncio.to_thread(checkpoints.knows_other_answers), "elsewhere", "auto", folder)
    try:
        await engine.start(lambda progress: None)
        yield engine._server.base_url, engine._server.key
    finally:
        await engine.stop()


def the_models(with_vllm: bool) -> list[Served]:
    """In an order in which neighbours answer differently."""
    own, other = checkpoints.QUESTIONS[QUESTION], checkpoints.OTHER_ANSWERS[QUESTION]
    heart, others = str(checkpoints.knows_by_heart()), str(checkpoints.knows_other_answers())
    third = [Served(ModelSpec(heart, backend="vllm"), own)] if with_vllm else []
    fourth = [Served(ModelSpec(others, backend="transformers"), other)]
    return [
        Served(ModelSpec(heart, backend="transformers"), own),
        Served(ModelSpec("elsewhere", backend="openai"), other),
        *(third or [Served(ModelSpec(heart, backend="transformers"), own)]),
        *fourth,
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quartet-switching-") as name:
        folder = Path(name)
        async with elsewhere(folder) as (url, key):
            settings = EngineSettings(folder, engine_url=url, engine_key=key, engine_args=VLLM_ARGS)
            manager = ModelManager(settings)
            models = the_models(bool(vllm_python()))
            try:
                outcome = await run(manager, models, asked.switches, asked.clients)
            finally:
                await manager.close()
    engines = " -> ".join(dict.fromkeys(model.spec.backend for model in models))
    print(f"{asked.clients} clients, {asked.switches} switches ({engines}), {outcome.answers} answers")
    print(f"lost {len(outcome.lost)}, wrong {len(outcome.wrong)}, engines left over {len(outcome.left_over)}")
    for line in (*outcome.lost[:5], *outcome.wrong[:5], *outcome.left_over[:5]):
        print(f"  {line}")
    ordered = sorted(outcome.switches)
    print(f"a switch took {ordered[len(ordered) // 2]:.1f} s (median), {ordered[-1]:.1f} s at most")


if __name__ == "__main__":
    asyncio.run(main())
