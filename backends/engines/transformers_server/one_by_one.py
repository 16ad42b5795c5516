"""Token ids in, token ids out, one request after the other: plain `generate()`, for models that continuous batching
cannot run because they make their own attention masks or positions."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from backends.engines.transformers_server.generation import GenerationFailed
from backends.engines.transformers_server.sampling import Drawer, Sampling

# New ids, or None at the end, or why it failed.
_Step = list[int] | GenerationFailed | None


@dataclass
class _Turn:
    prompt: list[int]
    most: int
    stop_ids: list[int]
    drawer: Drawer
    loop: asyncio.AbstractEventLoop
    steps: asyncio.Queue[_Step] = field(default_factory=asyncio.Queue)
    left: threading.Event = field(default_factory=threading.Event)

    def tell(self, step: _Step) -> None:
        # A closed loop: the server is ending.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.steps.put_nowait, step)


class OneByOne:
    """A Generator with one thread that works through a queue."""

    failure = ""

    def __init__(self, model: Any) -> None:
        self.in_flight = 0
        self.generated_tokens = 0
        self._model = model
        self._turns: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    async def generate(
        self, prompt: Sequence[int], most: int, stop_ids: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[list[int], None]:
        drawer = Drawer(sampling, str(self._model.device.type))
        turn = _Turn(list(prompt), most, list(stop_ids), drawer, asyncio.get_running_loop())
        self.in_flight += 1
        self._turns.put(turn)
        try:
            while (step := await turn.steps.get()) is not None:
                if isinstance(step, GenerationFailed):
                    raise step
                yield step
        finally:
            self.in_flight -= 1
            turn.left.set()

    def _work(self) -> None:
        while True:
            turn = self._turns.get()
            if turn.left.is_set():
                continue
            try:
                self._answer(turn)
            # One request that fails, whatever the library raises, is no reason to end the others.
            except Exception as error:  # noqa: BLE001
                turn.tell(GenerationFailed(str(error)))
            turn.tell(None)

    def _answer(self, turn: _Turn) -> None:
        ids = torch.tensor([turn.prompt], device=self._model.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=turn.most,
            eos_token_id=turn.stop_ids or None,
            pad_token_id=0,
            repetition_penalty=1.0,  # the drawer's business; left open, the library takes the model's on top of it
        )
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=[_Draw(turn.drawer)],
                stopping_criteria=[_Left(turn)],
                streamer=_Tell(self, turn),
            )


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Leaves only the token that the request drew, so that the greedy choice takes it: the same way as in batches."""

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self._drawer.draw(input_ids[0].tolist(), scores[0].float())
        return torch.full_like(scores, -torch.inf).scatter(1, token[None], 0.0)


class _Left(StoppingCriteria):  # type: ignore[misc]
    """Stops when nobody waits for the answer any more."""

    def __init__(self, turn: _Turn) -> None:
        self._turn = turn

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._turn.left.is_set(), device=input_ids.device)


class _Tell(BaseStreamer):  # type: ignore[misc]
    """Hands each token on as it is made; the first call carries the prompt."""

    def __init__(self, owner: OneByOne, turn: _Turn) -> None:
        self._owner, self._turn, self._prompt_seen = owner, turn, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            ids = value.flatten().tolist()
            self._owner.generated_tokens += len(ids)
            self._turn.tell(ids)
        self._prompt_seen = True

    def end(self) -> None:
        return None
