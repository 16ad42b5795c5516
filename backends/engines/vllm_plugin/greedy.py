"""Temperature 0 means the most likely tokens in vLLM too, with no penalty that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any


def greedy_is_greedy() -> None:
    """Have vLLM leave out a model's own repetition penalty from requests with temperature 0 that name none.

    vLLM has no setting for it: a default of generation_config.json, which is part of how the model *samples*, would
    also bend the choice of the most likely token.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for request in (ChatCompletionRequest, CompletionRequest):
        if not hasattr(request.to_sampling_params, "__wrapped__"):
            request.to_sampling_params = _without_penalty(request.to_sampling_params)


def _without_penalty(own: Any) -> Any:
    @wraps(own)
    def to_sampling_params(self: Any, max_tokens: int, default_sampling_params: Mapping[str, Any]) -> Any:
        if self.temperature == 0:
            default_sampling_params = {
                name: value for name, value in default_sampling_params.items() if name != "repetition_penalty"
            }
        return own(self, max_tokens, default_sampling_params)

    return to_sampling_params
