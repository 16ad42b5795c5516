"""How each request of a batch draws its next token: its own parameters, its own seed. Knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Sampling:
    """The parameters of one request, all of them decided. `temperature` counts only when `do_sample`."""

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None


class Drawer:
    """Draws the tokens of one request, in the order and with the processors of `generate()`."""

    def __init__(self, sampling: Sampling, device: str) -> None:
        self._processors = _processors(sampling)
        self._generator: torch.Generator | None = None
        if sampling.do_sample:
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> Drawer:
        # The library copies the parameters of a request that it moves out of a full cache: it draws on from here.
        return self

    @property
    def plain(self) -> bool:
        """Whether the scores need no change: greedy, without a penalty."""
        return self._generator is None and not self._processors

    def draw(self, context: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """The next token, a tensor of shape [1]. `context` is prompt and answer so far, `scores` has shape [V]."""
        ids = torch.tensor([context], device=scores.device)
        processed = self._processors(ids, scores[None].clone())
        if self._generator is None:
            return processed.argmax(dim=-1)
        # The same distribution as torch.multinomial, which fails for the whole batch when one row is not finite.
        noise = torch.empty_like(processed).exponential_(generator=self._generator)
        return (processed.softmax(dim=-1) / noise).argmax(dim=-1)


def _processors(sampling: Sampling) -> LogitsProcessorList:
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.do_sample:
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen


class RowSampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # an untyped library
    """Leaves in each row of scores only the token that its request drew, so that the library's argmax takes that one.

    The library's per-request processors know temperature, top-k and top-p only; penalties and seeds need the request.
    """

    supported_kwargs = {"drawer": Drawer}  # noqa: RUF012 - named so by the base class
    ignored_kwargs = ()

    def __init__(self) -> None:
        self.drawn = 0  # tokens made since the start, whether anybody still waits for them or not
        self._rows: list[Any] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Notes which request stands behind which row of the step that follows."""
        self._rows = [request.state for request in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """`scores` has shape [rows, V] and may have padding rows at the end."""
        self.drawn += len(self._rows)
        for row, state in enumerate(self._rows):
            drawer: Drawer = state.logit_processor_kwargs["drawer"]
            if not drawer.plain:
                token = drawer.draw(state.initial_tokens + state.generated_tokens, scores[row])
                scores[row] = torch.full_like(scores[row], -torch.inf).scatter(0, token, 0.0)
        return scores
