"""Token ids in, token ids out, many requests at once: transformers' continuous batching behind async iterators.

On two CPU cores `bench/generation.py` saw 29 tokens a second for one stream and 129 for eight, where `generate()` alone
makes 26 and 24.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.logits_process import LogitsProcessorList

from backends.engines.transformers_server.generation import GenerationFailed
from backends.engines.transformers_server.placement import PAGE_TOKENS, CacheSize
from backends.engines.transformers_server.sampling import Drawer, RowSampler, Sampling


class Batcher:
    """A Generator that runs all requests in one loop of the library."""

    def __init__(self, model: Any, size: CacheSize) -> None:
        self.in_flight = 0
        self._device = str(model.device.type)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=size.blocks,
                max_batch_tokens=size.batch_tokens,
                max_requests_per_batch=size.requests,
                max_memory_percent=1.0,  # the size is computed with care already
                # Rows are drawn in Python with the newest tokens at hand: neither graphs nor a second batch in flight.
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
        self._sampler = RowSampler()
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._sampler]))
        processors.tensors_required = 1
        self._manager.logit_processor = processors
        # Makes the cache here and now, so that too little memory is a failure to load and not of the first request.
        self._manager.warmup()
        self._manager.start()
        self._thread = self._manager._generation_thread

    @property
    def generated_tokens(self) -> int:
        return self._sampler.drawn

    @property
    def failure(self) -> str:
        error = self._manager.background_thread_status.fatal_error
        return str(error) if error is not None else ""

    def wait(self) -> None:
        self._thread.join()

    async def generate(
        self, prompt: Sequence[int], most: int, stop_ids: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[list[int], None]:
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        name = uuid.uuid4().hex
        self._manager.register_result_handler(name, outputs.put_nowait)
        accepted = self._manager.add_request(
            list(prompt),
            request_id=name,
            max_new_tokens=most,
            streaming=True,
            eos_token_id=list(stop_ids) or -1,
            drawer=Drawer(sampling, self._device),
        )
        if accepted is None:
            # The loop is ending; the reason is there when it has.
            await asyncio.to_thread(self.wait)
            raise GenerationFailed(self.failure or "the engine is shutting down")
        self.in_flight += 1
        finished = False
        seen = 0
        try:
            while not finished:
                output = await outputs.get()
                finished = output.is_finished()
                if output.error is not None:
                    raise GenerationFailed(output.error)
                new = output.generated_tokens[seen:]
                seen += len(new)
                if new:
                    yield new
        finally:
            self.in_flight -= 1
            if not finished:
                self._manager.cancel_request(name)
                self._manager.output_router.result_handlers.pop(name, None)
