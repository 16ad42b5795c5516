"""What a request means that vLLM takes otherwise: temperature 0 is greedy; a chat's answer is a text of its own.

vLLM has no setting for either; the one method that makes sampling parameters of a request is wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

_ALONE = "answer_stands_alone"


def read_requests() -> None:
    """Wrap that method of chats and of texts, once."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for request in (ChatCompletionRequest, CompletionRequest):
        if not hasattr(request.to_sampling_params, "__wrapped__"):
            request.to_sampling_params = _read(request.to_sampling_params)


def _read(own: Any) -> Any:
    @wraps(own)
    def to_sampling_params(self: Any, max_tokens: int, default_sampling_params: Mapping[str, Any]) -> Any:
        defaults = dict(default_sampling_params)
        if self.temperature == 0:
            # A penalty of generation_config.json is part of how the model samples; here nothing is sampled.
            defaults.pop("repetition_penalty", None)
        params = own(self, max_tokens, defaults)
        if getattr(self, "messages", None) and not self.continue_final_message:
            params.extra_args = {**(params.extra_args or {}), _ALONE: True}
        return params

    return to_sampling_params


def stands_alone(params: Any) -> bool:
    """Whether the answer that these sampling parameters are for is a text of its own, not the rest of another."""
    return bool((params.extra_args or {}).get(_ALONE))
